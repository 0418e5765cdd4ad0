"""The KV cache: per attention sub-layer that runs, keys and values in slots; one position per slot, explicit.

Slot order need not be position order: keys carry their rotary position, and masks are made from ``positions``. So a
shared prefix, ragged suffixes and generated tokens simply follow each other in the slots.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GROWTH = 64  # slots added at a time


class KVCache:
    """Keys and values of ``rows`` sequences.

    ``positions`` [rows, slots] holds each slot's position in its sequence, -1 where the slot is padding. A sub-layer
    that is skipped never calls :meth:`update` and so takes no memory.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self.positions = torch.empty((rows, 0), dtype=torch.long, device=device)
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._start = 0
        self._padded = False

    @property
    def slots(self) -> int:
        return self.positions.shape[1]

    def extend(self, positions: Tensor, valid: Tensor | None = None) -> None:
        """Reserves slots for the tokens of the next forward pass: positions and validity, each [rows, tokens]."""
        self._start = self.slots
        if valid is not None and not bool(valid.all()):
            positions = positions.masked_fill(~valid, -1)
            self._padded = True
        self.positions = torch.cat([self.positions, positions], dim=1)

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Stores the new tokens' keys and values [rows, heads, tokens, width] and returns those of all slots."""
        for store, new in ((self._keys, keys), (self._values, values)):
            held = store.get(layer)
            if held is None or held.shape[2] < self.slots:
                rows, heads, _, width = new.shape
                grown = new.new_empty((rows, heads, self.slots + _GROWTH, width))
                if held is not None:
                    grown[:, :, : self._start] = held[:, :, : self._start]
                store[layer] = held = grown
            held[:, :, self._start : self.slots] = new
        return self._keys[layer][:, :, : self.slots], self._values[layer][:, :, : self.slots]

    def forget(self, lengths: Tensor) -> None:
        """Drops what each row holds at positions ``lengths`` [rows] and later; the slots stay, unattended."""
        self.positions = self.positions.masked_fill(self.positions >= lengths[:, None], -1)
        self._padded = True

    def select(self, rows: Tensor) -> KVCache:
        """A cache holding the given rows, in that order; a row may be repeated."""
        chosen = KVCache(0, self.positions.device)
        chosen.positions = self.positions[rows]
        chosen._keys = {layer: held[rows] for layer, held in self._keys.items()}
        chosen._values = {layer: held[rows] for layer, held in self._values.items()}
        chosen._start, chosen._padded = self._start, self._padded
        return chosen

    def mask(self, queries: Tensor, window: int | None, *, additive: bool, dtype: torch.dtype) -> Tensor | None:
        """Which slots each query attends: [rows, 1, queries, slots], or None where causality alone decides.

        ``queries`` [rows, queries] are positions. A query sees the slots at its own and earlier positions, at most
        ``window`` of them. ``additive`` gives 0 and the dtype's minimum, else true and false.
        """
        alone = queries.shape[1] == 1 or queries.shape[1] == self.slots
        short = window is None or self.slots <= window
        if not self._padded and alone and short and not additive:
            return None
        distance = queries[:, :, None] - self.positions[:, None, :]
        seen = (distance >= 0) & (self.positions >= 0)[:, None, :]
        if window is not None:
            seen &= distance < window
        seen = seen[:, None]
        if not additive:
            return seen
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)
