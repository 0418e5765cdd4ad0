"""The KV cache: lanes of slots. A lane holds one prompt tree: what its rows share, then their branches.

Options of a question share their prompt, so their keys and values are kept and read once: a lane is one sequence of
slots, each with a position and a branch (-1: shared by all), and a query sees the slots of its own branch and the
shared ones, at its own and earlier positions. Rows that finish simply stop adding to it.

Slot order need not be position order: keys carry their rotary position and masks are made from positions, so a shared
prefix, ragged suffixes and new tokens follow each other in the slots. A sub-layer that is skipped has no memory here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.layers import Heads
from litestage.decoder.lean import LeanDecoder
from litestage.decoder.native import FEW, MOST_PAIRS, MOST_PAIRS_ALONE, Few
from litestage.engine.attention import FREE, SHARED, ForwardContext
from litestage.engine.prefix_cache import CachedPrefix

SLOTS_ROUNDED_TO = 32
"""The slots that are read are a multiple of this."""

Token = tuple[int, int, int]
"""Token id, position and branch."""


class LayerCache:
    """One layer's keys and values, ``whole`` [2, heads, lanes, slots, width], and the views that are used of it.

    Attributes:
        place: where in memory they begin.
    """

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole
        self.flat = whole.view(2 * whole.shape[1], -1, whole.shape[-1])
        self._seen = 0
        self._views = (whole, whole)

    @property
    def place(self) -> int:
        return self.whole.data_ptr()

    def views(self, seen: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first ``seen`` slots, each [lanes, heads, seen, width]."""
        if seen != self._seen:
            of_lanes = self.whole[:, :, :, :seen].transpose(1, 2)
            self._seen, self._views = seen, (of_lanes[0], of_lanes[1])
        return self._views


class KVCache:
    """Keys and values of ``count`` lanes, each of ``slots`` slots and one more, never read, that takes what is padding.

    Attributes:
        used: by lane, the slots that are taken.
        positions, branches: what each slot holds, [lanes, slots]; ``FREE`` and ``SHARED`` where it holds nothing.
        alone: one row in the only lane: every slot taken is seen, whatever its branch.
    """

    def __init__(self, lean: LeanDecoder, count: int, slots: int, device: torch.device) -> None:
        self.lean, self.slots, self.device = lean, slots + 1, device
        self.used = [0] * count
        self.alone = count == 1
        self._latest: list[Token] = [(0, 0, SHARED)] * count
        self.positions = torch.full((count, self.slots), FREE, device=device)
        self.branches = torch.full((count, self.slots), SHARED, device=device)
        self._layers: dict[int, LayerCache] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(layer.whole.nbytes for layer in self._layers.values())

    def enter(self, lanes: Sequence[int], tokens: Sequence[Sequence[Token]], *, fresh: bool = False) -> ForwardContext:
        """Takes slots for new tokens of the given lanes.

        Fresh lanes forget what they held; their tokens see only each other. A lane with fewer new tokens than another
        is given its last one again, as padding.
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
        info = torch.tensor(list(zip(*entered, strict=True)), device=self.device)
        # slots read: a few too many, so that the views of one step serve the next ones
        longest = max(self.used[lane] for lane in lanes)
        rounded = -(-longest // SLOTS_ROUNDED_TO) * SLOTS_ROUNDED_TO
        seen = queries if fresh else min(self.slots - 1, rounded)
        most = max(position for _, position, *_ in entered)
        which = None if list(lanes) == list(range(len(self.used))) else lanes
        long = self._long(tokens, queries) if fresh else None
        context = ForwardContext(self, info, seen, most, fresh, which, long)
        if self.device.type == "cpu" and long is None and self._few_enough(len(entered), seen, fresh, which is None):
            context.few = self._few(info, seen, most)
        return context

    def _few_enough(self, tokens: int, seen: int, fresh: bool, everywhere: bool) -> bool:
        """Whether a pass of so many tokens is quicker in C."""
        if self.lean.fused:
            return tokens * seen <= (MOST_PAIRS_ALONE if torch.get_num_threads() == 1 else MOST_PAIRS)
        return self.lean.counts and tokens <= FEW and everywhere and not fresh

    def _long(self, tokens: Sequence[Sequence[Token]], queries: int) -> Tensor | None:
        """By token, whether it is of a prompt beyond longrope's limit; None where there is no such prompt."""
        limit = self.lean.longrope_limit
        long = [limit is not None and max(position for _, position, _ in new) >= limit for new in tokens]
        return torch.tensor(long, device=self.device).repeat_interleave(queries) if any(long) else None

    def _few(self, new: Tensor, seen: int, most: int) -> Few:
        rows = [new.data_ptr() + row * new[0].nbytes for row in range(1, 4)]
        branches = None if self.alone else self.branches.data_ptr()
        tokens = new.shape[1]
        of_lanes = tokens // len(self.used), self.slots, len(self.used), seen
        few = Few(tokens, *of_lanes, self.positions.data_ptr(), branches, *rows)
        few.tables = self.lean.places(most)
        few.turns = few.tables.address
        return few

    def layer(self, heads: Heads, dtype: torch.dtype) -> LayerCache:
        """Where a layer's keys and values are kept; made when it is first asked for."""
        return self._layers.get(heads.layer) or self._made(heads.layer, heads.keys, heads.width, dtype)

    def _like(self, layer: int, whole: Tensor) -> LayerCache:
        """Where a layer's keys and values are kept that are shaped as these [2, heads, ..., width]."""
        return self._layers.get(layer) or self._made(layer, whole.shape[1], whole.shape[-1], whole.dtype)

    def _made(self, layer: int, heads: int, width: int, dtype: torch.dtype) -> LayerCache:
        shape = (2, heads, len(self.used), self.slots, width)
        made = self._layers[layer] = LayerCache(torch.zeros(shape, dtype=dtype, device=self.device))
        return made

    def copy_of(self, lane: int, sequences: Sequence[tuple[int, Sequence[int]]]) -> CachedPrefix:
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
        return CachedPrefix(rows, {at: layer.whole[:, :, lane, :used].clone() for at, layer in self._layers.items()})

    def fill(self, lane: int, prefix: CachedPrefix, row: int, count: int) -> None:
        """Has an empty lane hold, for all its rows, the first ``count`` tokens of one of a prefix's sequences."""
        slots = torch.tensor(prefix.rows[row][1][:count], device=self.device)
        if count >= self.slots:
            self._grow(count)
        for at, kept in prefix.whole.items():
            self._like(at, kept).whole[:, :, lane, :count] = kept.index_select(2, slots)
        self.positions[lane, :count] = torch.arange(count, device=self.device)
        self.used[lane] = count

    def roll_back(self, slots: Sequence[tuple[int, int]], *, broken: bool = False) -> None:
        """Forgets what some slots hold, each (lane, slot); at a lane's end they are taken again by what comes next.

        Where some of that is ``broken``, no number, it is taken out as by :meth:`wipe`.
        """
        if not slots:
            return
        flat = torch.tensor([lane * self.slots + slot for lane, slot in slots], device=self.device)
        self.positions.view(-1).index_fill_(0, flat, FREE)
        for layer in self._layers.values() if broken else ():
            layer.flat.index_fill_(1, flat, 0)
        for lane, slot in sorted(slots, reverse=True):
            if slot == self.used[lane] - 1:
                self.used[lane] = slot

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
        for layer in self._layers.values():
            layer.whole[:, :, lane] = 0

    def _grow(self, needed: int) -> None:
        more = max(needed + 1, 2 * self.slots) - self.slots
        self.slots += more
        self.positions = F.pad(self.positions, (0, more), value=FREE)
        self.branches = F.pad(self.branches, (0, more), value=SHARED)
        self._replace(lambda whole: F.pad(whole, (0, 0, 0, more)))

    def _replace(self, new: Callable[[Tensor], Tensor]) -> None:
        """Puts new tensors in the place of all, one by one: only one layer's is there twice."""
        for at in self._layers:
            self._layers[at] = LayerCache(new(self._layers[at].whole))
