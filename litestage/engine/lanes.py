"""The fast path's KV cache: lanes of slots. A lane holds one prompt's tree: what its rows share, then their branches.

Options of a question share their prompt, so their keys and values are kept and read once: a lane is one sequence of
slots, each with a position and a branch (-1: shared by all), and a query sees the slots of its own branch and the
shared ones, at its own and earlier positions. Rows that finish simply stop adding to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.layers import Heads
from litestage.decoder.lean import LeanDecoder
from litestage.decoder.native import FEW, Few
from litestage.engine.attention import Pass
from litestage.engine.carry import Held
from litestage.engine.slots import FREE, SHARED, Buffer, Token

BUCKET = 32
"""The slots that are read are a multiple of this."""


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
        """Takes slots for new tokens of the given lanes.

        Fresh lanes forget what they held; their tokens see only each other. A lane with no new tokens is given its
        last one again, as padding.
        """
        queries = max(map(len, tokens))
        if fresh:
            self.empty(lanes)
        needed = max(self.used[lane] + len(new) for lane, new in zip(lanes, tokens, strict=True))
        if needed >= self.slots:
            self._grow(needed)
        entered: list[tuple[int, int, int, int, int]] = []
        for lane, new in zip(lanes, tokens, strict=True):
            at = lane * self.slots + self.used[lane]
            entered += [(*token, at + offset, token[1]) for offset, token in enumerate(new)]
            latest = self._latest[lane] = new[-1] if new else self._latest[lane]
            entered += [(*latest, (lane + 1) * self.slots - 1, FREE)] * (queries - len(new))
            self.used[lane] += len(new)
        if self.alone and any(branch != SHARED for new in tokens for _, _, branch in new):
            self.alone = False
        info = torch.tensor(entered, device=self.device).T.contiguous()
        # slots read: a few too many, so that the views of one step serve the next ones
        longest = max(self.used[lane] for lane in lanes)
        seen = queries if fresh else min(self.slots - 1, -(-longest // BUCKET) * BUCKET)
        most = max(position for _, position, *_ in entered)
        which = None if list(lanes) == list(range(len(self.used))) else lanes
        attending = Pass(self, info, seen, most, fresh, which)
        if not fresh and which is None and len(entered) <= FEW and self.lean.counts and self.device.type == "cpu":
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
        return held or self._made(heads.layer, heads.keys, heads.width, dtype)

    def _made(self, layer: int, heads: int, width: int, dtype: torch.dtype) -> Buffer:
        shape = (2, heads, len(self.used), self.slots, width)
        held = self._held[layer] = Buffer(torch.zeros(shape, dtype=dtype, device=self.device))
        return held

    def held(self, lane: int, sequences: Sequence[tuple[int, Sequence[int]]]) -> Held:
        """A copy of what a lane holds of some sequences, each the tokens of a branch and of what it shares."""
        used = self.used[lane]
        positions, branches = self.positions[lane, :used].tolist(), self.branches[lane, :used].tolist()
        rows: list[tuple[Sequence[int], list[int]]] = []
        for branch, sequence in sequences:
            slot_of = {
                position: slot
                for slot, (position, of) in enumerate(zip(positions, branches, strict=True))
                if of in (SHARED, branch)
            }
            slots = [slot_of[position] for position in takewhile(slot_of.__contains__, range(len(sequence)))]
            rows.append((sequence[: len(slots)], slots))
        return Held(rows, {layer: buffer.whole[:, :, lane, :used].clone() for layer, buffer in self._held.items()})

    def fill(self, lane: int, held: Held, row: int, count: int) -> None:
        """Has an empty lane hold, for all its rows, the first ``count`` tokens of one of another lane's sequences."""
        slots = torch.tensor(held.rows[row][1][:count], device=self.device)
        if count >= self.slots:
            self._grow(count)
        for layer, kept in held.whole.items():
            buffer = self._held.get(layer) or self._made(layer, kept.shape[1], kept.shape[3], kept.dtype)
            buffer.whole[:, :, lane, :count] = kept.index_select(2, slots)
        self.positions[lane, :count] = torch.arange(count, device=self.device)
        self.used[lane] = count

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
        self._replace(lambda whole: whole.index_select(2, index))

    def empty(self, lanes: Sequence[int]) -> None:
        """Forgets what these lanes hold."""
        self.alone = len(self.used) == 1
        index = torch.tensor(list(lanes), device=self.device)
        self.positions.index_fill_(0, index, FREE)
        self.branches.index_fill_(0, index, SHARED)
        for lane in lanes:
            self.used[lane] = 0

    def wipe(self, lane: int) -> None:
        """Takes what is no number out of a lane: masked or not, it would reach whoever comes there next."""
        for buffer in self._held.values():
            buffer.whole[:, :, lane] = 0

    def _grow(self, needed: int) -> None:
        more = max(needed + 1, 2 * self.slots) - self.slots
        self.slots += more
        self.positions = F.pad(self.positions, (0, more), value=FREE)
        self.branches = F.pad(self.branches, (0, more), value=SHARED)
        self._replace(lambda whole: F.pad(whole, (0, 0, 0, more)))

    def _replace(self, new: Callable[[Tensor], Tensor]) -> None:
        """Puts new buffers in the place of all, one by one: only one layer's is there twice."""
        for layer in self._held:
            self._held[layer] = Buffer(new(self._held[layer].whole))
