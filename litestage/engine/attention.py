"""One forward pass over the KV cache: what its attentions share, and which slots their queries see."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.layers import Heads
from litestage.decoder.native import PLACE, Few

if TYPE_CHECKING:
    from litestage.engine.cache import KVCache

FREE = 1 << 40
"""Position of a slot that holds nothing: later than any query, so never seen."""
SHARED = -1
"""Branch of a slot that all of its lane's rows see."""


class ForwardContext:
    """One forward pass of new tokens, as many for each lane: what its attentions share.

    Args:
        new: by token [5, lanes * queries]: its id, position, branch, slot of all lanes' slots in a row, and the
            position to be kept there (``FREE`` for padding).
        seen: the slots of each lane that are read, from the first.
        most: the largest position, or more.
        fresh: the tokens see only each other.
        which: the lanes whose tokens they are; None: all.
        long: [tokens], whose rotary factors are longrope's long ones whatever their position; None: nobody's.
    """

    def __init__(
        self,
        cache: KVCache,
        new: Tensor,
        seen: int,
        most: int,
        fresh: bool = False,
        which: Sequence[int] | None = None,
        long: Tensor | None = None,
    ) -> None:
        self.ids, self._positions, self._branches, self._slots, self._kept = new.unbind(0)
        self._cache, self._seen, self._fresh = cache, seen, fresh
        self._count = len(cache.used if which is None else which)
        self._queries = len(self.ids) // self._count
        self._which = None if which is None else _selection(which, cache.device)
        cache.positions.view(-1).index_copy_(0, self._slots, self._kept)
        if not cache.alone:
            cache.branches.view(-1).index_copy_(0, self._slots, self._branches)
        self._new = new  # the addresses in few are of its rows
        self.few: Few | None = None  # what sub-layers in C need of a pass of a few tokens; None: PyTorch's are to run
        self._masks: dict[int | None, Tensor] = {}
        self._most, self._long = most, long

    @cached_property
    def turns(self) -> dict[str, Tensor]:
        """By rope, complex rotations [tokens, 1, half the head width]; for the fused make [tokens, all heads' halves],
        ones for values."""
        return self._cache.lean.turns(self._positions, self._most, self._long)

    def places(self, of: Sequence[Heads], dtype: torch.dtype) -> Any:
        """Where in memory some layers' keys and values begin, as C takes it."""
        return (PLACE * len(of))(*[self._cache.layer(heads, dtype).place for heads in of])

    def place(self, heads: Heads, dtype: torch.dtype) -> int:
        """Where in memory a layer's keys and values begin."""
        return self._cache.layer(heads, dtype).place

    def attend(self, heads: Heads, qkv: Tensor) -> Tensor:
        """Attention of the queries in ``qkv`` over their lanes' slots: [tokens, query heads * width].

        ``qkv`` [tokens, (query + 2 * key heads) * width] holds queries, keys and values side by side. Views are most
        of a small model's attention, so each tensor is one view of it.
        """
        lanes, each, group, width = self._count, self._queries, heads.queries // heads.keys, heads.width
        row, tokens = qkv.shape[1], qkv.shape[0]
        first, second = heads.queries * width, (heads.queries + heads.keys) * width  # where keys and values begin
        layer = self._cache.layer(heads, qkv.dtype)
        layer.flat.index_copy_(1, self._slots, qkv.as_strided((2 * heads.keys, tokens, width), (width, row, 1), first))
        if self._fresh:
            shape, strides = (lanes, heads.keys, each, width), (each * row, width, row, 1)
            keys, values = qkv.as_strided(shape, strides, first), qkv.as_strided(shape, strides, second)
        else:
            keys, values = layer.views(self._seen)
            if self._which is not None:
                keys, values = keys[self._which], values[self._which]
        causal = self._fresh and self._cache.alone and heads.window is None
        if lanes == 1 and each > 1 and heads.softcap is None and (causal or group > 1):
            # key heads in the place of the batch: long prompts need no mask, or one for all heads
            query = qkv.as_strided((heads.keys, group, each, width), (group * width, width, row, 1), 0)
            keys, values = (part[0][:, None].expand(-1, group, -1, -1) for part in (keys, values))
            mask = None if causal else self._mask_of(heads.window, 1, qkv.dtype)
            out = F.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=causal, scale=heads.scale
            )
            return out.permute(2, 0, 1, 3).reshape(tokens, -1)
        if each == 1 or group == 1:
            step = row if group == 1 else width
            query = qkv.as_strided((lanes, heads.keys, group * each, width), (each * row, group * width, step, 1), 0)
        else:
            query = qkv.as_strided(
                (lanes, heads.keys, group, each, width), (each * row, group * width, width, row, 1), 0
            ).reshape(lanes, heads.keys, group * each, width)
        mask = self._mask_of(heads.window, group, qkv.dtype)
        if heads.softcap is None:
            out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=heads.scale)
        else:
            scores = torch.tanh(query @ keys.transpose(2, 3) * (heads.scale / heads.softcap)) * heads.softcap + mask
            out = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
        if group == 1:
            return out.transpose(1, 2).reshape(tokens, -1)
        return out.view(lanes, heads.keys, group, each, width).permute(0, 3, 1, 2, 4).reshape(tokens, -1)

    def _mask_of(self, window: int | None, group: int, dtype: torch.dtype) -> Tensor:
        """0 for slots that a query sees, else minus infinity: [lanes, 1, group * queries, slots]."""
        if (known := self._masks.get(window)) is not None:
            return known
        own = (self._count, self._queries, 1)
        position = self._positions.view(own)
        hidden = self._of_slots(self._kept, self._cache.positions) > position
        if not self._cache.alone:
            of = self._of_slots(self._branches, self._cache.branches)
            hidden |= (of != self._branches.view(own)) & (of != SHARED)
        if window is not None:
            hidden |= self._of_slots(self._kept, self._cache.positions) <= position - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
        self._masks[window] = mask[:, None] if group == 1 else mask.repeat(1, group, 1)[:, None]
        return self._masks[window]

    def _of_slots(self, new: Tensor, kept: Tensor) -> Tensor:
        """Of the slots that are read, [lanes, 1, slots]: what came with the new tokens, or is held in the lanes."""
        if self._fresh:
            return new.view(self._count, 1, -1)
        return (kept if self._which is None else kept[self._which])[:, None, : self._seen]


def _selection(lanes: Sequence[int], device: torch.device) -> slice | Tensor:
    """Neighbouring lanes are selected without a copy."""
    first, last = lanes[0], lanes[-1] + 1
    return slice(first, last) if list(lanes) == list(range(first, last)) else torch.tensor(lanes, device=device)
