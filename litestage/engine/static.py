"""Decoding in steps that are nothing but tensors: the device goes on by itself, the host looks every few steps.

On a GPU a step that the host writes out, kernel by kernel, takes many times as long as reading the weights does. Here
the token's choice, the confidence window, and the ends by end-of-sequence, exit and limit are tensors of fixed place
and shape (:mod:`litestage.engine.step`), so that a step can be recorded once as a CUDA graph and launched as one. Its
sub-layers are compiled where there is a compiler (:mod:`litestage.engine.compiled`). The lanes are used again for the
next questions: a skip set is recorded once for a number of lanes and a bucket of slots.

The host gives the device the next steps before it looks at the last (:mod:`litestage.engine.lookahead`), and decides
with the same words as everywhere else where a row ends; stop strings only it can see. What a row was made to write
beyond its end is dropped, but took its time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import torch

from litestage.decoder.lean import LeanDecoder
from litestage.engine.attention import Pass
from litestage.engine.bundle import Bundle
from litestage.engine.compiled import MOST as MOST_COMPILED
from litestage.engine.compiled import Regions, unable
from litestage.engine.graphs import Graphs
from litestage.engine.lanes import Lanes
from litestage.engine.lookahead import POLL, Lookahead
from litestage.engine.memory import SHARE, available_bytes, bytes_per_token
from litestage.engine.rows import Row, Sampler
from litestage.engine.slots import FREE, SHARED, Buffer, Token
from litestage.engine.step import Column, Ends, StaticStep
from litestage.plan import StagePlan

if TYPE_CHECKING:
    from litestage.engine.fast import FastPath

MOST = 256
"""Steps between two entries at most."""
SMALLEST = 128
"""The slots that are read are this many, or twice as many, four times, and so on."""
KEPT = 64
"""Steps that a set of lanes keeps; the longest unused goes first."""


class StaticLanes(Lanes):
    """Lanes that are filled again and again, with the steps that were made for them.

    Attributes:
        running: the steps that are running ahead of the host, if any are.
    """

    def __init__(self, lean: LeanDecoder, count: int, slots: int, device: torch.device) -> None:
        super().__init__(lean, count, _bucket(slots), device)
        self.steps: OrderedDict[Hashable, StaticStep] = OrderedDict()
        self.running: Lookahead | None = None

    @property
    def nbytes(self) -> int:
        return sum(held.whole.nbytes for held in self._held.values())

    def settle(self) -> None:
        """Gives the rows all that was decoded ahead: the lanes are about to be changed."""
        while self.running is not None and self.running.ahead:
            self.running.look()
        self.running = None

    def enter(self, lanes: Sequence[int], tokens: Sequence[Sequence[Token]], *, fresh: bool = False) -> Pass:
        self.settle()
        return super().enter(lanes, tokens, fresh=fresh)

    def empty(self, lanes: Sequence[int]) -> None:
        self.settle()
        super().empty(lanes)

    def reserve(self, slots: int) -> None:
        """Makes room for this many slots, and for the rest of their bucket."""
        if _bucket(slots) >= self.slots:
            self._grow(slots)

    def take(self, other: Lanes, lanes: Sequence[int]) -> None:
        """Copies some of another's lanes to the first ones here, which are empty."""
        ours, slots = slice(len(lanes)), _bucket(max(other.used[lane] for lane in lanes))
        index = torch.tensor(lanes, device=self.device)
        self.reserve(slots)
        self.alone = False
        self.used[ours] = [other.used[lane] for lane in lanes]
        self._latest[ours] = [other._latest[lane] for lane in lanes]
        self.positions[ours, :slots] = other.positions[index, :slots]
        self.branches[ours, :slots] = other.branches[index, :slots]
        for layer, held in other._held.items():
            if layer not in self._held:
                shape = (*held.whole.shape[:2], len(self.used), self.slots, held.whole.shape[-1])
                self._held[layer] = Buffer(held.whole.new_zeros(shape))
            self._held[layer].whole[:, :, ours, :slots] = held.whole[:, :, index, :slots]

    def _grow(self, needed: int) -> None:
        self.steps.clear()  # they were made for the old place
        super()._grow(_bucket(needed))


class StaticDecoding:
    """What :class:`litestage.engine.fast.FastPath` decodes with in the place of its own steps.

    Args:
        compiling: ``auto``, ``on`` or ``off``; see :func:`litestage.engine.compiled.unable`.

    Attributes:
        graphs: records the steps, where that is possible.
        ahead: how many looks the device is ahead of the host; on a CPU, which is both, none.
        made: steps made so far.
    """

    def __init__(self, path: FastPath, compiling: str = "auto") -> None:
        self._path, self._device = path, path.decoder.device
        self._lanes: OrderedDict[int, StaticLanes] = OrderedDict()
        self._uncompiled = unable(path.decoder, compiling)
        self._regions: Regions | None = None
        self.graphs = Graphs(self._device)
        self.ahead = 1 if self._device.type == "cuda" else 0
        self.made = 0

    def refuses(self, plan: StagePlan) -> str | None:
        """Why the host's own steps run this plan, or None where these can."""
        if plan.schedule is not None:
            return "a schedule changes the path with the token"
        return self.graphs.failed

    @property
    def uncompiled_because(self) -> str | None:
        """Why sub-layers are not compiled, or None where those of small steps are."""
        return self._uncompiled or (self._regions.failed if self._regions else None)

    def lanes(self, count: int, slots: int) -> Lanes:
        """At least ``count`` empty lanes, a power of two, with room for ``slots`` slots each."""
        return self._pool(count, slots)

    def keep(self, lanes: Lanes, held: list[Bundle | None]) -> tuple[Lanes, list[Bundle | None]]:
        """Moves the bundles to fewer lanes if half of them are enough."""
        if 2 * len(_going(held)) > len(held):
            return lanes, held
        assert isinstance(lanes, StaticLanes)
        lanes.settle()
        going = _going(held)
        if not going:
            return lanes, held
        fewer = self._pool(len(going), max(lanes.used[lane] for lane in going))
        fewer.take(lanes, going)
        return fewer, [held[lane] for lane in going] + [None] * (len(fewer.used) - len(going))

    def advance(
        self, held: Sequence[Bundle | None], lanes: Lanes, widest: int, plan: StagePlan, sampler: Sampler
    ) -> None:
        """The next few tokens for the rows that are going; ``widest`` is the most rows that a lane may have."""
        assert isinstance(lanes, StaticLanes)
        if lanes.running is None:
            lanes.running = self._take_off(held, lanes, widest, plan, sampler)
        running = lanes.running
        while running is not None and running.ahead <= self.ahead and running.launch():
            pass
        if running is None or not running.ahead:
            lanes.running = None
        else:
            running.look()

    def _take_off(
        self, held: Sequence[Bundle | None], lanes: StaticLanes, widest: int, plan: StagePlan, sampler: Sampler
    ) -> Lookahead | None:
        going = [bundle.going if bundle is not None else [] for bundle in held]
        rows = {lane * widest + at: row for lane, of_lane in enumerate(going) for at, row in enumerate(of_lane)}
        if not rows:
            return None
        count = min(POLL, max(row.limit - len(row.tokens) for row in rows.values()))
        needed = max(used + count * len(of_lane) for used, of_lane in zip(lanes.used, going, strict=True))
        lanes.reserve(needed)
        step = self._step(lanes, widest, needed, next(iter(rows.values())), plan, sampler)
        step.enter(list(_columns(held, going, lanes, widest)), rows, sampler)
        return Lookahead(step, lanes.used, [len(of_lane) for of_lane in going], rows, self._path.decoder.work)

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values in all lanes that are kept."""
        return sum(lanes.nbytes for lanes in self._lanes.values())

    def release(self) -> None:
        """Gives back all lanes, and the steps that were made for them."""
        self._lanes.clear()

    def _pool(self, count: int, slots: int) -> StaticLanes:
        """Lanes that were used before, or new ones; the longest unused go while all take more than their share."""
        count = 1 << (count - 1).bit_length()
        self._make_room(count, slots)
        if count not in self._lanes:
            self._lanes[count] = StaticLanes(self._path.lean, count, slots, self._device)
        lanes = self._lanes[count]
        lanes.running = None  # of rows that are done
        lanes.reserve(slots)
        lanes.empty(range(count))
        self._lanes.move_to_end(count)
        return lanes

    def _make_room(self, count: int, slots: int) -> None:
        kept = self._lanes.get(count)
        if kept is not None and _bucket(slots) < kept.slots:  # they do as they are
            return
        available = available_bytes(self._device)
        if available is None:
            return
        room = SHARE * (available + self.nbytes)
        more = count * _bucket(slots) * bytes_per_token(self._path.decoder) - (kept.nbytes if kept else 0)
        for other in [one for one in self._lanes if one != count]:
            if self.nbytes + more <= room:
                break
            del self._lanes[other]

    def _step(
        self, lanes: StaticLanes, widest: int, needed: int, row: Row, plan: StagePlan, sampler: Sampler
    ) -> StaticStep:
        seen, ends = _bucket(needed), Ends.of(row)
        tensors = tuple(sorted((name, id(tensor)) for name, tensor in plan.tensors.items()))
        key = (plan.skip, plan.compensation, tensors, widest, seen, lanes.alone, sampler.key, astuple(ends))
        if key not in lanes.steps:
            lanes.steps[key] = self._made(lanes, len(lanes.used) * widest, seen, plan, sampler, ends)
            self.made += 1
            if len(lanes.steps) > KEPT:
                lanes.steps.popitem(last=False)
        lanes.steps.move_to_end(key)
        return lanes.steps[key]

    def _made(
        self, lanes: StaticLanes, columns: int, seen: int, plan: StagePlan, sampler: Sampler, ends: Ends
    ) -> StaticStep:
        fast, regions = self._path, None
        if columns <= MOST_COMPILED and self.uncompiled_because is None:
            regions = self._regions = self._regions or Regions(fast.decoder, fast.lean)
        path = fast.path(plan, "decode", sublayers=regions.sublayers if regions else None)
        step = StaticStep(fast.decoder, fast.lean, lanes, columns, seen, plan, path, sampler, ends, MOST, regions)
        if regions and not regions.prepare(step.run):
            return self._made(lanes, columns, seen, plan, sampler, ends)
        step.run = self.graphs.capture(step.run)
        return step


def _going(held: Sequence[Bundle | None]) -> list[int]:
    return [lane for lane, bundle in enumerate(held) if bundle is not None and bundle.going]


def _columns(
    held: Sequence[Bundle | None], going: Sequence[Sequence[Row]], lanes: Lanes, widest: int
) -> Iterator[Column]:
    """What each column begins with; see :data:`litestage.engine.step.Column`."""
    for lane, (bundle, rows) in enumerate(zip(held, going, strict=True)):
        first = lane * lanes.slots + lanes.used[lane]
        for at, row in enumerate(rows):
            position, branch = row.length - 1, bundle.branch[row] if bundle else SHARED
            yield row.last, position, branch, first + at, position, len(rows), row.limit - len(row.tokens)
        for _ in range(widest - len(rows)):
            yield 0, 0, SHARED, (lane + 1) * lanes.slots - 1, FREE, 0, 0


def _bucket(slots: int) -> int:
    return SMALLEST << max(0, -(-slots // SMALLEST) - 1).bit_length()
