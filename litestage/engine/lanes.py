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

FREE = 1 << 40
"""Position of a slot that holds nothing: later than any query, so never seen."""
SHARED = -1

Token = tuple[int, int, int]
"""Token id, position and branch."""


class Lanes:
    """Keys and values of ``count`` lanes, each of ``slots`` slots; the last slot of each takes what is padding."""

    def __init__(self, lean: LeanDecoder, count: int, slots: int, device: torch.device) -> None:
        self.lean, self.slots, self.device = lean, slots + 1, device
        self.used = [0] * count
        self.alone = count == 1  # one row in the only lane, nothing forgotten: every slot taken is seen
        self._latest: list[Token] = [(0, 0, SHARED)] * count
        self.positions = torch.full((count, self.slots), FREE, device=device)
        self.branches = torch.full((count, self.slots), SHARED, device=device)
        self._held: dict[int, Tensor] = {}  # by layer: [2, key heads, lanes, slots, width]

    def enter(self, lanes: Sequence[int], tokens: Sequence[Sequence[Token]], *, fresh: bool = False) -> Pass:
        """Takes slots for new tokens of the given lanes: of all of them in order, or of any that are ``fresh``.

        A fresh lane forgets what it held; its tokens see only each other. A lane with no new tokens is given its last
        one again, as padding.
        """
        queries = max(map(len, tokens))
        if fresh:
            for lane in lanes:
                self.used[lane] = 0
                self.positions[lane] = FREE
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
        self.alone = self.alone and max(branches) == SHARED
        info = torch.tensor([ids, positions, branches, slots, kept], device=self.device)
        return Pass(self, len(lanes), info, max(positions), fresh)

    def store(self, heads: Heads, slots: Tensor, new: Tensor) -> Tensor:
        """Keeps new keys and values [tokens, 2 * heads, width]; returns all of them [2, heads, lanes, slots, width]."""
        held = self._held.get(heads.layer)
        if held is None:
            shape = (2, heads.keys, len(self.used), self.slots, heads.width)
            held = self._held[heads.layer] = new.new_zeros(shape)
        held.view(2 * heads.keys, -1, heads.width).index_copy_(1, slots, new.transpose(0, 1))
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
        self._held = {layer: held.index_select(2, index) for layer, held in self._held.items()}

    def _grow(self, needed: int) -> None:
        more = max(needed + 1, 2 * self.slots) - self.slots
        self.slots += more
        self.positions = F.pad(self.positions, (0, more), value=FREE)
        self.branches = F.pad(self.branches, (0, more), value=SHARED)
        self._held = {layer: F.pad(held, (0, 0, 0, more)) for layer, held in self._held.items()}


class Pass:
    """One forward pass of new tokens, [lanes * queries] of them: what its attentions share."""

    def __init__(self, lanes: Lanes, count: int, new: Tensor, most: int, fresh: bool) -> None:
        self.ids, self._positions, self._branches, self._slots, self._kept = new.unbind(0)
        self._lanes, self._count, self._queries, self._fresh = lanes, count, len(self.ids) // count, fresh
        lanes.positions.view(-1).index_copy_(0, self._slots, self._kept)
        lanes.branches.view(-1).index_copy_(0, self._slots, self._branches)
        self._seen = self._queries if fresh else max(lanes.used)  # slots read
        self._masks: dict[int | None, Tensor | None] = {}
        self.turns = lanes.lean.turns(self._positions, most)

    def attend(self, heads: Heads, queries: Tensor, new: Tensor) -> Tensor:
        """Attention of queries [tokens, heads, width] over the lane's slots, new ones included: [tokens, wide]."""
        lanes, each, rep = self._count, self._queries, heads.queries // heads.keys
        held = self._lanes.store(heads, self._slots, new)
        if self._fresh:
            held = new.view(lanes, each, 2, heads.keys, heads.width).permute(2, 3, 0, 1, 4)
        keys, values = held[0, :, :, : self._seen], held[1, :, :, : self._seen]  # [key heads, lanes, slots, width]
        mask = self._mask(heads.window, rep, queries.dtype)
        if each == 1:
            asked = queries.view(lanes, heads.keys, rep, heads.width).transpose(0, 1)
        else:
            asked = queries.view(lanes, each, heads.keys, rep, heads.width).permute(2, 0, 3, 1, 4)
            asked = asked.reshape(heads.keys, lanes, rep * each, heads.width)
        if heads.softcap is None:
            out = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=heads.scale)
        else:
            scores = torch.tanh(asked @ keys.transpose(2, 3) * (heads.scale / heads.softcap)) * heads.softcap
            scores = scores if mask is None else scores + mask
            out = scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values
        if each == 1:
            return out.transpose(0, 1).reshape(lanes, -1)
        out = out.view(heads.keys, lanes, rep, each, heads.width).permute(1, 3, 0, 2, 4)
        return out.reshape(lanes * each, -1)

    def _mask(self, window: int | None, rep: int, dtype: torch.dtype) -> Tensor | None:
        """0 for slots that are seen, else minus infinity: [1, lanes, rep * queries, slots], or None if all are."""
        if window not in self._masks:
            self._masks[window] = self._made_mask(window, rep, dtype)
        return self._masks[window]

    def _made_mask(self, window: int | None, rep: int, dtype: torch.dtype) -> Tensor | None:
        lanes = self._lanes
        if len(self.ids) == 1 and lanes.alone and (window is None or self._seen <= window):
            return None
        own = (self._count, self._queries)
        position, branch = self._positions.view(*own, 1), self._branches.view(*own, 1)
        if self._fresh:
            at, of = self._kept.view(self._count, 1, -1), self._branches.view(self._count, 1, -1)
        else:
            at, of = lanes.positions[:, None, : self._seen], lanes.branches[:, None, : self._seen]
        seen = (at <= position) & ((of == branch) | (of == SHARED))
        if window is not None:
            seen &= at > position - window
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))
        return mask[None] if rep == 1 else mask[:, None].expand(-1, rep, -1, -1).reshape(1, own[0], -1, self._seen)
