"""How rows' next tokens are chosen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from litestage.engine.requests import Decoding
from litestage.engine.rows import NON_FINITE, Row
from litestage.engine.signals import measure
from litestage.plan.exit.rule import TRIAL

DRAWING = 3
"""Version of how tokens are drawn; part of the key of results that were."""


class Sampler:
    """Chooses every row's next token from its logits: the largest, or drawn from the row's own random stream."""

    def __init__(self, decoding: Decoding) -> None:
        self._decoding = decoding
        self._streams: dict[str, tuple[torch.Generator, list[float]]] = {}  # by name, and what each has drawn so far
        self._warpers = _warpers(decoding) if decoding.temperature > 0 else []

    @property
    def greedy(self) -> bool:
        return not self._warpers

    def advance(self, rows: Sequence[Row], logits: Tensor) -> None:
        """Gives every row that has not ended its next token, from logits [rows, vocabulary]."""
        top, likeliest = logits.max(dim=-1)  # of a row with a NaN, the NaN
        tokens = self._draw(rows, logits) if self._warpers else likeliest
        confidences: list[float | None] = [None] * len(rows)
        if any(row.measures_confidence for row in rows):
            confidences = (top - logits.logsumexp(dim=-1)).exp().tolist()
        asked = dict.fromkeys(name for row in rows for name in row.signals)
        signals = {
            name: [row.sure for row in rows] if name.startswith(TRIAL) else measure(name, logits).tolist()
            for name in asked
        }
        each = zip(rows, tokens.tolist(), top.tolist(), confidences, strict=True)
        for index, (row, token, largest, confidence) in enumerate(each):
            if row.stop is None:
                seen = {name: signals[name][index] for name in row.signals}
                row.push(token if math.isfinite(largest) else NON_FINITE, confidence, seen)

    @property
    def key(self) -> Hashable:
        """Equal where tokens are chosen alike, whatever is drawn."""
        return replace(self._decoding, stop=(), seed=0, repeat=0)

    def choose(self, logits: Tensor, chances: Tensor) -> Tensor:
        """Tokens [rows] drawn from logits [rows, vocabulary] with :meth:`chances`: where their share of the probability
        falls, the tokens side by side. Nothing waits for the device."""
        for warper in self._warpers:
            logits = warper(None, logits)
        heaped = logits.softmax(dim=-1).double().cumsum(dim=-1)
        return (heaped <= chances[:, None] * heaped[:, -1:]).sum(dim=-1)

    def chances(self, row: Row, count: int) -> list[float]:
        """Numbers in [0, 1) for a row's next tokens, one each, from its own stream: whatever runs beside it."""
        name, first = row.request.stream, len(row.tokens)
        if name not in self._streams:
            digest = hashlib.sha256(f"{self._decoding.seed}/{self._decoding.repeat}/{name}".encode()).digest()
            self._streams[name] = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1), []
        generator, drawn = self._streams[name]
        while len(drawn) < first + count:
            drawn += torch.rand(64, generator=generator, dtype=torch.float64).tolist()
        return drawn[first : first + count]

    def _draw(self, rows: Sequence[Row], logits: Tensor) -> Tensor:
        chances = [self.chances(row, 1)[0] for row in rows]
        return self.choose(logits, torch.tensor(chances, dtype=torch.float64, device=logits.device))


def _warpers(decoding: Decoding) -> list:  # type: ignore[type-arg]
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    chain: list = [TemperatureLogitsWarper(decoding.temperature)]  # type: ignore[type-arg]
    if decoding.top_k:
        chain.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        chain.append(TopPLogitsWarper(decoding.top_p))
    return chain
