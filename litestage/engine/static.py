"""Decoding in steps that are nothing but tensors: the device goes on by itself, the host looks every few steps.

On a GPU a step that the host writes out, kernel by kernel, takes many times as long as reading the weights does. Here
the token's choice, the confidence window, and the ends by end-of-sequence, exit and limit are tensors of fixed place
and shape (:mod:`litestage.engine.step`), so that a step can be recorded once as a CUDA graph and launched as one. The
lanes are used again for the next questions: a skip set is recorded once for a number of lanes and a bucket of slots.

The host reads what was written and decides with the same words as everywhere else where a row ends; stop strings only
it can see. What a row was made to write beyond its end is dropped, but took its time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import astuple
from typing import TYPE_CHECKING

import torch

from litestage.decoder.lean import LeanDecoder
from litestage.engine.bundle import Bundle
from litestage.engine.graphs import Graphs
from litestage.engine.lanes import FREE, SHARED, Buffer, Lanes
from litestage.engine.rows import Row, Sampler
from litestage.engine.step import Column, Ends, StaticStep
from litestage.plan import StagePlan

if TYPE_CHECKING:
    from litestage.engine.fast import FastPath

POLL = 8
"""Steps between two looks of the host."""
SMALLEST = 128
"""The slots that are read are this many, or twice as many, four times, and so on."""
KEPT = 64
"""Steps that a set of lanes keeps; the longest unused goes first."""


class StaticLanes(Lanes):
    """Lanes that are filled again and again, with the steps that were made for them."""

    def __init__(self, lean: LeanDecoder, count: int, slots: int, device: torch.device) -> None:
        super().__init__(lean, count, _bucket(slots), device)
        self.steps: OrderedDict[Hashable, StaticStep] = OrderedDict()

    def reserve(self, slots: int) -> None:
        """Makes room for this many slots."""
        if slots >= self.slots:
            self._grow(slots)

    def take(self, other: Lanes, lanes: Sequence[int]) -> None:
        """Copies some of another's lanes to the first ones here, which are empty."""
        ours, slots = slice(len(lanes)), other.slots - 1
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

    Attributes:
        graphs: records the steps, where that is possible.
        made: steps made so far.
    """

    def __init__(self, path: FastPath) -> None:
        self._path, self._device = path, path.decoder.device
        self._lanes: dict[int, StaticLanes] = {}
        self.graphs = Graphs(self._device)
        self.made = 0

    def refuses(self, plan: StagePlan) -> str | None:
        """Why the host's own steps run this plan, or None where these can."""
        if plan.schedule is not None:
            return "a schedule changes the path with the token"
        return self.graphs.failed

    def lanes(self, count: int, slots: int) -> Lanes:
        """At least ``count`` empty lanes, a power of two, with room for ``slots`` slots each."""
        return self._pool(count, slots)

    def keep(self, lanes: Lanes, held: list[Bundle | None]) -> tuple[Lanes, list[Bundle | None]]:
        """Moves the bundles to fewer lanes if half of them are enough."""
        going = [lane for lane, bundle in enumerate(held) if bundle is not None]
        if 2 * len(going) > len(held):
            return lanes, held
        fewer = self._pool(len(going), lanes.slots - 1)
        fewer.take(lanes, going)
        return fewer, [held[lane] for lane in going] + [None] * (len(fewer.used) - len(going))

    def advance(
        self, held: Sequence[Bundle | None], lanes: Lanes, widest: int, plan: StagePlan, sampler: Sampler
    ) -> None:
        """Up to ``POLL`` tokens for every row that is going; ``widest`` is the most rows that a lane may have."""
        assert isinstance(lanes, StaticLanes)
        going = [bundle.going if bundle is not None else [] for bundle in held]
        columns = {lane * widest + at: row for lane, of_lane in enumerate(going) for at, row in enumerate(of_lane)}
        count = min(POLL, max(row.limit - len(row.tokens) for row in columns.values()))
        needed = max(used + count * len(of_lane) for used, of_lane in zip(lanes.used, going, strict=True))
        lanes.reserve(needed)
        step = self._step(lanes, widest, needed, next(iter(columns.values())), plan, sampler)
        step.enter(list(_columns(held, going, lanes, widest)), columns, sampler, count)
        for _ in range(count):
            step.run()
        tokens, confidences = step.written(count)
        for lane, of_lane in enumerate(going):
            lanes.used[lane] += count * len(of_lane)
        for column, row in columns.items():
            for token, confidence in zip(tokens[column], confidences[column], strict=True):
                if row.stop is None:
                    row.push(token, confidence)

    def _pool(self, count: int, slots: int) -> StaticLanes:
        count = 1 << (count - 1).bit_length()
        if count not in self._lanes:
            self._lanes[count] = StaticLanes(self._path.lean, count, slots, self._device)
        lanes = self._lanes[count]
        lanes.reserve(slots)
        lanes.empty(range(count))
        return lanes

    def _step(
        self, lanes: StaticLanes, widest: int, needed: int, row: Row, plan: StagePlan, sampler: Sampler
    ) -> StaticStep:
        seen, ends = min(_bucket(needed), lanes.slots - 1), Ends.of(row)
        tensors = tuple(sorted((name, id(tensor)) for name, tensor in plan.tensors.items()))
        key = (plan.skip, plan.compensation, tensors, widest, seen, lanes.alone, sampler.key, astuple(ends))
        if key not in lanes.steps:
            path, decoder = self._path.path(plan, "decode"), self._path.decoder
            columns = len(lanes.used) * widest
            step = StaticStep(decoder, self._path.lean, lanes, columns, seen, plan, path, sampler, ends, POLL)
            step.run = self.graphs.capture(step.run)
            lanes.steps[key] = step
            self.made += 1
            if len(lanes.steps) > KEPT:
                lanes.steps.popitem(last=False)
        lanes.steps.move_to_end(key)
        return lanes.steps[key]


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
