"""One row's state while it is decoded, and how its next token is chosen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from litestage.engine.exit import stops
from litestage.engine.types import Decoding, Detokenise, Generation, Request
from litestage.errors import LiteStageError
from litestage.plan import ExitRule

DRAWING = 3
"""Version of how tokens are drawn; part of the key of results that were."""

NON_FINITE = -1
"""In the place of a token: the largest logit is no finite number, so none can be chosen."""


class Row:
    """A request being decoded: its tokens and confidences so far, and why it ended (``stop``), once it has."""

    def __init__(
        self,
        request: Request,
        exit_rule: ExitRule | None,
        eos: tuple[int, ...],
        detokenise: Detokenise,
        confidences: bool,
    ) -> None:
        if not request.prompt:
            raise LiteStageError("A prompt is empty: it has no token to continue from; give it some text.")
        self.request = request
        self.tokens: list[int] = []
        self.confidences: list[float] = []
        self.stop: str | None = None
        self.limit = request.limit
        self.measures_confidence = confidences or exit_rule is not None
        self._keeps_confidences = confidences
        self.exit, self.eos, self._detokenise = exit_rule, eos, detokenise

    @property
    def sequence(self) -> list[int]:
        return [*self.request.prompt, *self.tokens]

    @property
    def last(self) -> int:
        return self.tokens[-1] if self.tokens else self.request.prompt[-1]  # without any it has ended

    @property
    def length(self) -> int:
        return len(self.request.prompt) + len(self.tokens)

    def fit(self, context_length: int) -> None:
        """Lowers the limit to the room the context leaves; a prompt that leaves none ends as ``too_long``."""
        self.limit = min(self.limit, context_length - len(self.request.prompt))
        if self.limit < 1:
            self.stop = "too_long"

    def restart(self) -> None:
        """Forgets what was written; what is drawn for it is drawn again."""
        self.tokens.clear()
        self.confidences.clear()

    def push(self, token: int, confidence: float | None) -> None:
        """Takes the next token, or :data:`NON_FINITE`, and decides whether the row ends with it."""
        if token == NON_FINITE:
            self.stop = "non_finite"
            return
        if confidence is not None:
            self.confidences.append(confidence)
        self.tokens.append(token)
        if token in self.eos:
            self.stop = "eos"
        elif self._detokenise.found(self.tokens):
            self.stop = "stop_string"
        elif self.exit is not None and stops(self.exit, self.confidences):
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
        )


class Sampler:
    """Chooses every row's next token from its logits: the largest, or drawn from the row's own random stream."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._streams: dict[str, tuple[torch.Generator, list[float]]] = {}
        self._warpers = _warpers(decoding) if decoding.temperature > 0 else []

    @property
    def greedy(self) -> bool:
        return not self._warpers

    def advance(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Gives every row that has not ended its next token, from logits [rows, vocabulary]."""
        likeliest = logits.argmax(dim=-1)  # of a row with a NaN, the NaN
        top = logits.gather(-1, likeliest[:, None])[:, 0]
        tokens = self._draw(rows, logits) if self._warpers else likeliest
        confidences: list[float | None] = [None] * len(rows)
        if any(row.measures_confidence for row in rows):
            confidences = (top - logits.logsumexp(dim=-1)).exp().tolist()
        for row, token, largest, confidence in zip(rows, tokens.tolist(), top.tolist(), confidences, strict=True):
            if row.stop is None:
                row.push(token if math.isfinite(largest) else NON_FINITE, confidence)

    @property
    def key(self) -> Hashable:
        """Equal where tokens are chosen alike, whatever is drawn."""
        return replace(self._decoding, stop=(), seed=0, repeat=0)

    def choose(self, logits: Tensor, chances: Tensor) -> Tensor:
        """Tokens [rows] drawn from logits [rows, vocabulary] with :meth:`chances`: where their share of the probability
        falls, the tokens side by side. Nothing waits for the device."""
        heaped = self._probabilities(logits).double().cumsum(dim=-1)
        return (heaped <= chances[:, None] * heaped[:, -1:]).sum(dim=-1)

    def chances(self, row: Row, count: int) -> list[float]:
        """Numbers in [0, 1) for a row's next tokens, one each, from its own stream: whatever runs beside it."""
        generator, drawn = self._stream(row.request.stream)
        first = len(row.tokens)
        while len(drawn) < first + count:
            drawn += torch.rand(64, generator=generator, dtype=torch.float64).tolist()
        return drawn[first : first + count]

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        chances = [self.chances(row, 1)[0] for row in rows]
        return self.choose(logits, torch.tensor(chances, dtype=torch.float64, device=logits.device))

    def _probabilities(self, logits: Tensor) -> Tensor:
        for warper in self._warpers:
            logits = warper(None, logits)
        return logits.softmax(dim=-1)

    def _stream(self, name: str) -> tuple[torch.Generator, list[float]]:
        """A stream's generator, and what it has drawn so far."""
        if name not in self._streams:
            digest = hashlib.sha256(f"{self._decoding.seed}/{self._decoding.repeat}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            self._streams[name] = generator, []
        return self._streams[name]


def _warpers(decoding: Decoding) -> list:  # type: ignore[type-arg]
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    chain: list = [TemperatureLogitsWarper(decoding.temperature)]  # type: ignore[type-arg]
    if decoding.top_k:
        chain.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        chain.append(TopPLogitsWarper(decoding.top_p))
    return chain
