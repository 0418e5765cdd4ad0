"""What goes into the engine and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from litestage.engine.exit import exit_step
from litestage.plan import ExitRule

ENGINES = {"fast": "fast/2", "static": "static/3", "plain": "plain/2"}
"""Paths of the engine, with name and version: part of every stored result's key."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen and when a row ends.

    ``temperature`` 0 is greedy; otherwise ``repeat`` numbers the samples of one prompt. ``stop`` strings end a row when
    its text contains one; they are cut from the text.
    """

    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    repeat: int = 0


@dataclass(frozen=True)
class Request:
    """One row to generate.

    Attributes:
        prompt: token ids.
        limit: most new tokens.
        group: rows of one group share the prefill of their common prefix.
        stream: names the row's own random stream (question, stage, row), used when sampling.
        draft: new tokens that another plan wrote for this prompt, to be verified instead of decoded one by one. It
            changes how long greedy decoding takes, never what comes out.
    """

    prompt: tuple[int, ...]
    limit: int
    group: int = 0
    stream: str = ""
    draft: tuple[int, ...] = ()


@dataclass(frozen=True)
class Generation:
    """One row's result.

    Attributes:
        tokens: new token ids, the ending EOS included, as ``transformers`` generate returns them.
        text: their text without special tokens and without the stop string.
        stop: why it ended: ``eos``, ``exit``, ``stop_string``, ``length``, ``too_long`` (the prompt did not fit) or
            ``non_finite`` (logits that are no numbers, from which no token can be chosen).
        confidences: the largest softmax probability of every step taken, when they were asked for.
        prompt_tokens: length of the prompt.
    """

    tokens: tuple[int, ...]
    text: str
    stop: str
    prompt_tokens: int
    confidences: tuple[float, ...] = field(default=(), repr=False)

    def cut(self, rule: ExitRule, eos: int, decode: Detokenise) -> Generation:
        """What ``rule`` would have made of this generation, which must be uncut and carry its confidences."""
        step = exit_step(rule, self.confidences)
        if step is None or (step == len(self.tokens) - 1 and self.stop in ("eos", "stop_string")):
            return self
        tokens = (*self.tokens[:step], eos)
        return replace(self, tokens=tokens, text=decode(tokens), stop="exit", confidences=self.confidences[: step + 1])


class Detokenise:
    """Turns token ids into text: special tokens left out, cut before the first stop string.

    A stop string is looked for in the text with its special tokens, as ``generate(stop_strings=...)`` does: it may be
    one, or hold one.

    Args:
        alone: texts of single tokens, kept by who makes many of these for one tokenizer.
    """

    def __init__(self, tokenizer: object, stop: tuple[str, ...] = (), alone: dict[int, str] | None = None) -> None:
        self._tokenizer, self._stop = tokenizer, stop
        self._alone = {} if alone is None else alone

    def __call__(self, tokens: tuple[int, ...] | list[int]) -> str:
        text = self._decode(tokens)
        whole = self._decode(tokens, special=True) if self._stop else text
        cut = min((at for stop in self._stop if (at := whole.find(stop)) >= 0), default=None)
        if cut is None:
            return text
        return self._without_special(whole[:cut], tokens) if whole != text else text[:cut]

    def found(self, tokens: list[int]) -> bool:
        """Whether the newest token completed a stop string. Only the tail is decoded: a token has at least a byte."""
        if not any(self._may_end(stop, tokens[-1]) for stop in self._stop):
            return False
        text = self._decode(tokens[-(max(len(stop.encode()) for stop in self._stop) + 4) :], special=True)
        return any(stop in text for stop in self._stop)

    def _may_end(self, stop: str, token: int) -> bool:
        """Whether a text that ends with this token may end with the string's last character.

        Decoding takes as long as a sub-layer, so each token is decoded once. Alone it may lose a leading space, or be
        a piece of a character or nothing at all.
        """
        text = self._alone.get(token)
        if text is None:
            text = self._alone[token] = self._decode([token], special=True)
        return not text or stop.endswith(" ") or stop[-1:] in text or "\ufffd" in text

    def _without_special(self, text: str, tokens: Sequence[int]) -> str:
        """The text without those of the tokens that are special."""
        for token in set(tokens):
            if not self._decode([token]) and (special := self._decode([token], special=True)):
                text = text.replace(special, "")
        return text

    def _decode(self, tokens: Sequence[int], special: bool = False) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=not special)  # type: ignore[attr-defined]
        return text
