"""The fast path's KV cache: lanes of slots. A lane holds one prompt's tree: what its rows share, then their branches.

Options of a question share their prompt, so their keys and values are kept and read once: a lane is one sequence of
slots, each with a position and a branch (-1: shared by all), and a query sees the slots of its own branch and the
shared ones, at its own and earlier positions. Rows that finish simply stop adding to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.lean import Heads, LeanDecoder
from litestage.decoder.native import FEW, Few

FREE = 1 << 40
"""Position of a slot that holds nothing: later than any query, so never seen."""
SHARED = -1
BUCKET = 32
"""The slots that are read are a multiple of this."""

Token = tuple[int, int, int]
"""Token id, position and branch."""


class Lanes:
    """Keys and values of ``count`` lanes, each of ``slots`` slots and one more, never read, that takes what is padding.

    Attributes:
        alone: one row in the only lane and nothing forgotten: every slot taken is seen, whatever its branch.
    """

    def __init__(self, lean: LeanDecoder, count: int, slots: int, device: torch.device) -> None:
        self.lean, self.slots, self.device = lean, slots + 1, device
        self.used = [0] * count
        self.alone = count == 1
        self._latest: list[Token] = [(0, 0, SHARED)] * count
        self.positions = torch.full((count, self.slots), FREE, device=device)
        self.branches = torch.full((count, self.slots), SHARED, device=device)
        self._held: dict[int, Buffer] = {}

    def enter(self, lanes: Sequence[int], tokens: Sequence[Sequence[Token]], *, fresh: bool = False) -> Pass:
        """Takes slots for new tokens of the given lanes: of all of them in order, or of any that are ``fresh``.

        A fresh lane forgets what it held; its tokens see only each other. A lane with no new tokens is given its last
        one again, as padding.
        """
        queries = max(map(len, tokens))
        if fresh:
            self.empty(lanes)
        needed = max(self.used[lane] + len(new) for lane, new in zip(lanes, tokens, strict=True))
        if needed >= self.slots:
            self._grow(needed)
        ids: list[int] = []
        positions: list[int] = []
        branches: list[int] = []
        slots: list[int] = []
        kept: list[int] = []
        for lane, new in zip(lanes, tokens, strict=True):
            at, start = lane * self.slots, self.used[lane]
            latest = self._latest[lane] = new[-1] if new else self._latest[lane]
            for offset in range(queries):
                padding = offset >= len(new)
                token, position, branch = latest if padding else new[offset]
                ids.append(token)
                positions.append(position)
                branches.append(branch)
                slots.append(at + (self.slots - 1 if padding else start + offset))
                kept.append(FREE if padding else position)
            self.used[lane] = start + len(new)
        if self.alone and max(branches) != SHARED:
            self.alone = False
        info = torch.tensor([ids, positions, branches, slots, kept], device=self.device)
        # slots read: a few too many, so that the views of one step serve the next ones
        seen = queries if fresh else min(self.slots - 1, -(-max(self.used) // BUCKET) * BUCKET)
        attending = Pass(self, info, seen, max(positions), fresh)
        if not fresh and len(ids) <= FEW and self.lean.fused and self.device.type == "cpu":
            attending.few = self._few(info, seen)
        return attending

    def _few(self, new: Tensor, seen: int) -> Few:
        rows = [new.data_ptr() + row * new[0].nbytes for row in range(1, 4)]
        branches = None if self.alone else self.branches.data_ptr()
        tokens, lanes = new.shape[1], len(self.used)
        return Few(tokens, tokens // lanes, self.slots, lanes, seen, self.positions.data_ptr(), branches, *rows)

    def buffer(self, heads: Heads, dtype: torch.dtype) -> Buffer:
        """Where a layer's keys and values are kept; made when it is first asked for."""
        held = self._held.get(heads.layer)
        if held is None:
            shape = (2, heads.keys, len(self.used), self.slots, heads.width)
            held = self._held[heads.layer] = Buffer(torch.zeros(shape, dtype=dtype, device=self.device))
        return held

    def forget(self, lane: int, branch: int, length: int) -> None:
        """Drops what a branch holds at positions ``length`` and later."""
        self.alone = False
        late = (self.branches[lane] == branch) & (self.positions[lane] >= length)
        self.positions[lane] = self.positions[lane].masked_fill(late, FREE)

    def keep(self, lanes: Sequence[int]) -> None:
        """Keeps only these lanes, in this order."""
        index = torch.tensor(lanes, device=self.device)
        self.used = [self.used[lane] for lane in lanes]
        self._latest = [self._latest[lane] for lane in lanes]
        self.positions, self.branches = self.positions[index], self.branches[index]
        self._held = {layer: Buffer(held.whole.index_select(2, index)) for layer, held in self._held.items()}

    def empty(self, lanes: Sequence[int]) -> None:
        """Forgets what these lanes hold."""
        self.alone = len(self.used) == 1
        index = torch.tensor(list(lanes), device=self.device)
        self.positions.index_fill_(0, index, FREE)
        self.branches.index_fill_(0, index, SHARED)
        for lane in lanes:
            self.used[lane] = 0

    def _grow(self, needed: int) -> None:
        more = max(needed + 1, 2 * self.slots) - self.slots
        self.slots += more
        self.positions = F.pad(self.positions, (0, more), value=FREE)
        self.branches = F.pad(self.branches, (0, more), value=SHARED)
        self._held = {layer: Buffer(F.pad(held.whole, (0, 0, 0, more))) for layer, held in self._held.items()}


class Buffer:
    """One layer's keys and values, ``whole`` [2, heads, lanes, slots, width], and the views that are used of it."""

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole
        self.flat = whole.view(2 * whole.shape[1], -1, whole.shape[-1])
        self._seen = 0
        self._views = (whole, whole)

    def views(self, seen: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first ``seen`` slots, each [lanes, heads, seen, width]."""
        if seen != self._seen:
            of_lanes = self.whole[:, :, :, :seen].transpose(1, 2)
            self._seen, self._views = seen, (of_lanes[0], of_lanes[1])
        return self._views


class Pass:
    """One forward pass of new tokens, as many for each lane: what its attentions share.

    Args:
        new: by token [5, lanes * queries]: its id, position, branch, slot of all lanes' slots in a row, and the
            position to be kept there (``FREE`` for padding).
        seen: the slots of each lane that are read, from the first.
        most: the largest position, or more.
        fresh: the tokens see only each other, and need not be those of all lanes.
    """

    def __init__(self, lanes: Lanes, new: Tensor, seen: int, most: int, fresh: bool = False) -> None:
        self.ids, self._positions, self._branches, self._slots, self._kept = new.unbind(0)
        self._lanes, self._seen, self._fresh = lanes, seen, fresh
        self._queries = seen if fresh else len(self.ids) // len(lanes.used)
        self._count = len(self.ids) // self._queries
        lanes.positions.view(-1).index_copy_(0, self._slots, self._kept)
        if not lanes.alone:
            lanes.branches.view(-1).index_copy_(0, self._slots, self._branches)
        self._new = new  # the addresses in few are of its rows
        self.few: Few | None = None
        self._masks: dict[int | None, Tensor] = {}
        self.turns = lanes.lean.turns(self._positions, most)

    def place(self, heads: Heads, dtype: torch.dtype) -> int:
        """Where in memory a layer's keys and values begin."""
        return self._lanes.buffer(heads, dtype).whole.data_ptr()

    def attend(self, heads: Heads, made: Tensor) -> Tensor:
        """Attention of the queries in ``made`` over their lanes' slots: [tokens, query heads * width].

        ``made`` [tokens, (query + 2 * key heads) * width] holds queries, keys and values side by side. Views are most
        of a small model's attention, so each tensor is one view of it.
        """
        lanes, each, rep, width = self._count, self._queries, heads.queries // heads.keys, heads.width
        row, tokens = made.shape[1], made.shape[0]
        first, second = heads.queries * width, (heads.queries + heads.keys) * width  # where keys and values begin
        held = self._lanes.buffer(heads, made.dtype)
        held.flat.index_copy_(1, self._slots, made.as_strided((2 * heads.keys, tokens, width), (width, row, 1), first))
        if self._fresh:
            shape, strides = (lanes, heads.keys, each, width), (each * row, width, row, 1)
            keys, values = made.as_strided(shape, strides, first), made.as_strided(shape, strides, second)
        else:
            keys, values = held.views(self._seen)
        causal = self._fresh and self._lanes.alone and heads.window is None
        if lanes == 1 and each > 1 and heads.softcap is None and (causal or rep > 1):
            # key heads in the place of the batch: long prompts need no mask, or one for all heads
            asked = made.as_strided((heads.keys, rep, each, width), (rep * width, width, row, 1), 0)
            keys, values = (part[0][:, None].expand(-1, rep, -1, -1) for part in (keys, values))
            mask = None if causal else self._mask_of(heads.window, 1, made.dtype)
            out = F.scaled_dot_product_attention(
                asked, keys, values, attn_mask=mask, is_causal=causal, scale=heads.scale
            )
            return out.permute(2, 0, 1, 3).reshape(tokens, -1)
        if each == 1 or rep == 1:
            step = row if rep == 1 else width
            asked = made.as_strided((lanes, heads.keys, rep * each, width), (each * row, rep * width, step, 1), 0)
        else:
            asked = made.as_strided(
                (lanes, heads.keys, rep, each, width), (each * row, rep * width, width, row, 1), 0
            ).reshape(lanes, heads.keys, rep * each, width)
        mask = self._mask_of(heads.window, rep, made.dtype)
        if heads.softcap is None:
            out = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=heads.scale)
        else:
            scores = torch.tanh(asked @ keys.transpose(2, 3) * (heads.scale / heads.softcap)) * heads.softcap + mask
            out = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
        if rep == 1:
            return out.transpose(1, 2).reshape(tokens, -1)
        return out.view(lanes, heads.keys, rep, each, width).permute(0, 3, 1, 2, 4).reshape(tokens, -1)

    def _mask_of(self, window: int | None, rep: int, dtype: torch.dtype) -> Tensor:
        mask = self._masks.get(window)
        if mask is None:
            mask = self._masks[window] = self._mask(window, rep, dtype)
        return mask

    def _mask(self, window: int | None, rep: int, dtype: torch.dtype) -> Tensor:
        """0 for slots that a query sees, else minus infinity: [lanes, 1, rep * queries, slots]."""
        lanes, own = self._lanes, (self._count, self._queries, 1)
        position = self._positions.view(own)
        at = self._kept.view(self._count, 1, -1) if self._fresh else lanes.positions[:, None, : self._seen]
        hidden = at > position
        if not lanes.alone:
            of = self._branches.view(self._count, 1, -1) if self._fresh else lanes.branches[:, None, : self._seen]
            hidden |= (of != self._branches.view(own)) & (of != SHARED)
        if window is not None:
            hidden |= at <= position - window
        mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
        return mask[:, None] if rep == 1 else mask.repeat(1, rep, 1)[:, None]
