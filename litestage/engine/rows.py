"""One row while it is decoded: its tokens, and what ends it: end of sequence, its exit rule, a stop string or limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from litestage.engine.requests import Generation, Request
from litestage.errors import LiteStageError
from litestage.plan import ExitRule
from litestage.plan.exit.sentence_end import SENTENCE_OVER

NON_FINITE = -1
"""In the place of a token: the largest logit is no finite number, so none can be chosen."""


class Row:
    """A request being decoded: its tokens and confidences so far, and why it ended (``stop``), once it has.

    A prompt that leaves no room for a token ends as ``too_long``.

    Args:
        room: tokens that prompt and text may have together, a trial's among them.
        trial: tokens of the words that its exit rule has run on trial.
        rerun_length: see :func:`litestage.decoder.families.rerun_length`.

    Attributes:
        sure: what the model thought likeliest after a trial, as a probability; 0 without one since the last token.
    """

    def __init__(
        self,
        request: Request,
        exit_rule: ExitRule | None,
        eos: tuple[int, ...],
        detokenise: Detokenise,
        room: int,
        confidences: bool = False,
        trial: tuple[int, ...] = (),
        rerun_length: int | None = None,
    ) -> None:
        if not request.prompt:
            raise LiteStageError("A prompt is empty: it has no token to continue from; give it some text.")
        self.request = request
        self.tokens: list[int] = []
        self.confidences: list[float] = []
        self.signals: dict[str, list[float]] = {name: [] for name in (exit_rule.signals if exit_rule else ())}
        self.limit = min(request.limit, room - len(request.prompt))
        self.stop: str | None = "too_long" if self.limit < 1 else None
        self.measures_confidence = confidences or exit_rule is not None
        self._keeps_confidences = confidences
        self.exit, self.eos, self._detokenise = exit_rule, eos, detokenise
        self.rerun_length = rerun_length
        self.guessed = self.accepted = 0  # tokens of drafts
        self.reused = 0  # tokens of the prompt that need no prefill
        self._trial, self.sure, self._room = trial, 0.0, room

    @property
    def sequence(self) -> list[int]:
        return [*self.request.prompt, *self.tokens]

    @property
    def last(self) -> int:
        return self.tokens[-1] if self.tokens else self.request.prompt[-1]  # without any it has ended

    @property
    def length(self) -> int:
        return len(self.request.prompt) + len(self.tokens)

    @property
    def going(self) -> bool:
        """Whether its last token can be run: neither ended nor at the length at which its text is run anew."""
        return self.stop is None and self.length != self.rerun_length

    @property
    def left(self) -> int:
        """Tokens that it may still be given before it ends, or before its text is run anew."""
        left = self.limit - len(self.tokens)
        until = left if self.rerun_length is None else self.rerun_length - self.length
        return min(left, until) if until > 0 else left

    @property
    def drafted(self) -> list[int]:
        """Its last token and those that its draft says to follow, as long as the draft agrees with it so far.

        The draft's own last token is left out: it need not be run to be verified.
        """
        written, draft = len(self.tokens), self.request.draft
        agrees = len(draft) > written and list(draft[:written]) == self.tokens
        return list(draft[written - 1 : -1]) if agrees else [self.last]

    @property
    def on_trial(self) -> tuple[int, ...]:
        """What its exit rule has run on trial behind its last token: something where a sentence has just ended, and
        there is room for it."""
        room = self._room if self.rerun_length is None or self.length > self.rerun_length else self.rerun_length - 1
        fits = self.length + len(self._trial) <= room
        return self._trial if fits and SENTENCE_OVER.search(self.text(self.tokens)) else ()

    def restart(self) -> None:
        """Forgets what was written and guessed; what is drawn for it is drawn again."""
        self.tokens.clear()
        self.sure = 0.0
        self.guessed = self.accepted = self.reused = 0
        self.confidences.clear()
        for values in self.signals.values():
            values.clear()

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens, as an exit rule sees it."""
        return self._detokenise(list(tokens))

    def push(self, token: int, confidence: float | None, signals: Mapping[str, float] | None = None) -> None:
        """Takes the next token, or :data:`NON_FINITE`, and decides whether the row ends with it.

        Args:
            signals: of the step, those that the row's exit rule asks for.
        """
        if token == NON_FINITE:
            self.stop = "non_finite"
            return
        if confidence is not None:
            self.confidences.append(confidence)
        for name, values in self.signals.items():
            values.append((signals or {})[name])
        self.sure = 0.0
        self.tokens.append(token)
        if token in self.eos:
            self.stop = "eos"
        elif self._detokenise.found(self.tokens):
            self.stop = "stop_string"
        elif self.exit is not None and self.exit.stops(self):
            self.tokens[-1] = self.eos[0]
            self.stop = "exit"
        elif len(self.tokens) >= self.limit:
            self.stop = "length"

    def generation(self) -> Generation:
        return Generation(
            tokens=tuple(self.tokens),
            text=self._detokenise(self.tokens),
            stop=self.stop or "length",
            prompt_tokens=len(self.request.prompt),
            confidences=tuple(self.confidences) if self._keeps_confidences else (),
            guessed=self.guessed,
            accepted=self.accepted,
            reused=self.reused,
            signals={name: tuple(values) for name, values in self.signals.items()},
        )


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
