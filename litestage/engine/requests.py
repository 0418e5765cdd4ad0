"""What goes into the engine and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from litestage.plan import ExitRule
from litestage.plan.exit import Steps, exit_step


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
        guessed, accepted: tokens that the plan's draft guessed, and those of them that were right.
        reused: first tokens of the prompt that were not prefilled, as another lane had held them.
        signals: what else the exit rule asked of every step (:mod:`litestage.engine.signals`), by name.
    """

    tokens: tuple[int, ...]
    text: str
    stop: str
    prompt_tokens: int
    confidences: tuple[float, ...] = field(default=(), repr=False)
    guessed: int = field(default=0, compare=False)
    accepted: int = field(default=0, compare=False)
    reused: int = field(default=0, compare=False)
    signals: Mapping[str, tuple[float, ...]] = field(default_factory=dict, repr=False)

    def cut(self, rule: ExitRule, eos: int, text_of: Callable[[tuple[int, ...]], str]) -> Generation:
        """What ``rule`` would have made of this generation, which must be uncut and carry what the rule looks at."""
        seen = Steps(self.tokens, self.confidences, self.signals, lambda tokens: text_of(tuple(tokens)))
        step = exit_step(rule, seen)
        if step is None or (step == len(self.tokens) - 1 and self.stop in ("eos", "stop_string")):
            return self
        tokens = (*self.tokens[:step], eos)
        return replace(
            self,
            tokens=tokens,
            text=text_of(tokens),
            stop="exit",
            confidences=self.confidences[: step + 1],
            signals={name: values[: step + 1] for name, values in self.signals.items()},
        )
