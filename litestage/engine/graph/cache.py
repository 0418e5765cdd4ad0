"""The KV cache of a GPU's decode steps: it stays where it is, with the steps that were made for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import torch

from litestage.decoder.lean import LeanDecoder
from litestage.engine.attention import ForwardContext
from litestage.engine.cache import KVCache, Token
from litestage.engine.graph.decode_step import DecodeStep
from litestage.engine.graph.readback import Lookahead

SMALLEST_BUCKET = 128
"""The slots that are read are this many, or twice as many, four times, and so on."""


class StaticKVCache(KVCache):
    """A KV cache that is filled again and again, with the steps that were made for it.

    Attributes:
        running: the steps that are running ahead of the host, if any are.
    """

    def __init__(self, lean: LeanDecoder, count: int, slots: int, device: torch.device) -> None:
        super().__init__(lean, count, bucket(slots), device)
        self.steps: OrderedDict[Hashable, DecodeStep] = OrderedDict()
        self.running: Lookahead | None = None

    def settle(self) -> None:
        """Gives the rows all that was decoded ahead: the lanes are about to be changed."""
        while self.running is not None and self.running.ahead:
            self.running.look()
        self.running = None

    def enter(self, lanes: Sequence[int], tokens: Sequence[Sequence[Token]], *, fresh: bool = False) -> ForwardContext:
        self.settle()
        return super().enter(lanes, tokens, fresh=fresh)

    def empty(self, lanes: Sequence[int]) -> None:
        self.settle()
        super().empty(lanes)

    def reserve(self, slots: int) -> None:
        """Makes room for this many slots, and for the rest of their bucket."""
        if bucket(slots) >= self.slots:
            self._grow(slots)

    def take(self, other: KVCache, lanes: Sequence[int]) -> None:
        """Copies some of another's lanes to the first ones here, which are empty."""
        ours, slots = slice(len(lanes)), bucket(max(other.used[lane] for lane in lanes))
        index = torch.tensor(lanes, device=self.device)
        self.reserve(slots)
        self.alone = False
        self.used[ours] = [other.used[lane] for lane in lanes]
        self._latest[ours] = [other._latest[lane] for lane in lanes]
        self.positions[ours, :slots] = other.positions[index, :slots]
        self.branches[ours, :slots] = other.branches[index, :slots]
        for at, layer in other._layers.items():
            self._like(at, layer.whole).whole[:, :, ours, :slots] = layer.whole[:, :, index, :slots]

    def _grow(self, needed: int) -> None:
        self.steps.clear()  # they were made for the old place
        super()._grow(bucket(needed))


def bucket(slots: int) -> int:
    """The slots that are read where so many are wanted."""
    return SMALLEST_BUCKET << max(0, -(-slots // SMALLEST_BUCKET) - 1).bit_length()
