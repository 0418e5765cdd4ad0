"""Decoding in steps that are nothing but tensors: the device goes on by itself, the host looks every few steps.

On a GPU a step that the host writes out, kernel by kernel, takes many times as long as reading the weights does. Here
the token's choice, the confidence window, and the ends by end-of-sequence, exit and limit are tensors of fixed place
and shape (:mod:`litestage.engine.graph.decode_step`), so that a step can be recorded once as a CUDA graph and launched
as one. Its sub-layers are compiled where there is a compiler (:mod:`litestage.engine.graph.compiled`). The caches are
used again for the next questions: a skip set is recorded once for a number of lanes and a bucket of slots.

Where a row ends the host decides (:mod:`litestage.engine.graph.readback`), with the same words as everywhere else: stop
strings only it can see.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

from litestage.decoder.decoder import Decoder
from litestage.engine.attention import FREE, SHARED
from litestage.engine.graph.cache import StaticKVCache, bucket
from litestage.engine.graph.capture import Graphs
from litestage.engine.graph.compiled import MAX_COMPILED_TOKENS, Regions, why_not_compiled
from litestage.engine.graph.decode_step import Column, DecodeStep, Ends
from litestage.engine.graph.readback import POLL, Lookahead
from litestage.engine.memory import KV_SHARE, available_bytes, bytes_per_token
from litestage.engine.rows import Row
from litestage.engine.runner import HostRunner, RunningBatch
from litestage.plan import StagePlan

MAX_STEPS_KEPT = 64
"""Steps that a cache keeps; the longest unused goes first."""


class GraphRunner(HostRunner):
    """A runner whose decode steps are static, and recorded where the device is a GPU.

    Args:
        compiling: ``auto``, ``on`` or ``off``; see :func:`litestage.engine.graph.compiled.why_not_compiled`.

    Attributes:
        graphs: records the steps, where that is possible.
        ahead: how many looks the device is ahead of the host; on a CPU, which is both, none.
        made: steps made so far.
    """

    side_by_side = False  # there is one cache for each number of lanes

    def __init__(self, decoder: Decoder, compiling: str = "auto") -> None:
        super().__init__(decoder)
        self._caches: OrderedDict[int, StaticKVCache] = OrderedDict()
        self._uncompiled = why_not_compiled(decoder, compiling)
        self._regions: Regions | None = None
        self.graphs = Graphs(decoder.device)
        self.ahead = 1 if decoder.device.type == "cuda" else 0
        self.made = 0

    def why_not_static(self, plan: StagePlan) -> str | None:
        if plan.schedule is not None:
            return "a schedule changes the path with the token"
        if plan.exit is not None and plan.exit.signals:
            return "the exit rule looks at more of a step than the device keeps"
        return self.graphs.failed

    @property
    def why_not_compiled(self) -> str | None:
        """Why sub-layers are not compiled, or None where those of small steps are."""
        return self._uncompiled or (self._regions.failed if self._regions else None)

    def decode(self, batch: RunningBatch) -> None:
        """The next few tokens of the rows that are going; the device runs ahead of the host."""
        if self.why_not_static(batch.layers.plan):
            self.settle(batch)
            return super().decode(batch) if any(batch.going.values()) else None
        cache = batch.cache
        assert isinstance(cache, StaticKVCache)
        if cache.running is None:
            cache.running = self._take_off(batch, cache)
        running = cache.running
        while running is not None and running.ahead <= self.ahead and running.launch():
            pass
        if running is None or not running.ahead:
            cache.running = None
        else:
            running.look()

    def verify(self, batch: RunningBatch, guesses: Mapping[Row, Sequence[int]]) -> None:
        assert isinstance(batch.cache, StaticKVCache)
        assert batch.cache.running is None, "the rows have not been given all: settle them before anything is guessed"
        super().verify(batch, guesses)

    def settle(self, batch: RunningBatch) -> None:
        assert isinstance(batch.cache, StaticKVCache)
        batch.cache.settle()

    def shrink(self, batch: RunningBatch) -> None:
        """Moves the trees to fewer lanes if half of them are enough."""
        lanes = [lane for lane, rows in batch.going.items() if rows]
        if 2 * len(lanes) > len(batch.trees):
            return
        self.settle(batch)
        cache, lanes = batch.cache, [lane for lane, rows in batch.going.items() if rows]
        if lanes:
            fewer = self._cache(len(lanes), max(cache.used[lane] for lane in lanes))
            fewer.take(cache, lanes)
            batch.trees = [batch.trees[lane] for lane in lanes] + [None] * (len(fewer.used) - len(lanes))
            batch.cache = fewer

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self._caches.values())

    def release(self) -> None:
        """Gives back all caches, and the steps that were made for them."""
        self._caches.clear()

    def _cache(self, lanes: int, slots: int) -> StaticKVCache:
        """At least so many empty lanes, a power of two: used before, or new ones."""
        lanes = 1 << (lanes - 1).bit_length()
        self._make_room(lanes, slots)
        if lanes not in self._caches:
            self._caches[lanes] = StaticKVCache(self.lean, lanes, slots, self.decoder.device)
        cache = self._caches[lanes]
        cache.running = None  # of rows that are done
        cache.reserve(slots)
        cache.empty(range(lanes))
        self._caches.move_to_end(lanes)
        return cache

    def _make_room(self, lanes: int, slots: int) -> None:
        """Drops the longest unused caches while all take more than their share of memory."""
        kept = self._caches.get(lanes)
        if kept is not None and bucket(slots) < kept.slots:  # it does as it is
            return
        available = available_bytes(self.decoder.device)
        if available is None:
            return
        room = KV_SHARE * (available + self.nbytes)
        more = lanes * bucket(slots) * bytes_per_token(self.decoder) - (kept.nbytes if kept else 0)
        for other in [one for one in self._caches if one != lanes]:
            if self.nbytes + more <= room:
                break
            del self._caches[other]

    def _take_off(self, batch: RunningBatch, cache: StaticKVCache) -> Lookahead | None:
        going = batch.going
        rows = {lane * batch.widest + at: row for lane, rows in going.items() for at, row in enumerate(rows)}
        if not rows:
            return None
        count = min(POLL, max(row.left for row in rows.values()))
        strides = [len(rows) for rows in going.values()]
        needed = max(used + count * stride for used, stride in zip(cache.used, strides, strict=True))
        cache.reserve(needed)
        step = self._step(batch, cache, needed, next(iter(rows.values())))
        step.enter(list(_columns(batch)), rows, batch.sampler)
        return Lookahead(step, cache.used, strides, rows, batch.work)

    def _step(self, batch: RunningBatch, cache: StaticKVCache, needed: int, row: Row) -> DecodeStep:
        plan, seen, ends = batch.layers.plan, bucket(needed), Ends.of(row)
        tensors = tuple(sorted((name, id(tensor)) for name, tensor in plan.tensors.items()))
        of_plan = plan.skip, plan.compensation, tensors
        key = (*of_plan, batch.widest, seen, cache.alone, batch.sampler.key, ends)
        if key not in cache.steps:
            cache.steps[key] = self._made(batch, cache, seen, ends)
            self.made += 1
            if len(cache.steps) > MAX_STEPS_KEPT:
                cache.steps.popitem(last=False)
        cache.steps.move_to_end(key)
        return cache.steps[key]

    def _made(self, batch: RunningBatch, cache: StaticKVCache, seen: int, ends: Ends) -> DecodeStep:
        regions, columns, plan = None, len(cache.used) * batch.widest, batch.layers.plan
        if columns <= MAX_COMPILED_TOKENS and self.why_not_compiled is None:
            regions = self._regions = self._regions or Regions(self.decoder, self.lean)
        path = self.path(plan, "decode", sublayers=regions.sublayers if regions else None)
        step = DecodeStep(self.decoder, cache, columns, seen, plan, path, batch.sampler, ends, regions)
        if regions and not regions.prepare(step.run):
            return self._made(batch, cache, seen, ends)
        step.run = self.graphs.capture(step.run)
        return step


def _columns(batch: RunningBatch) -> Iterator[Column]:
    """What each column begins with."""
    slots, used = batch.cache.slots, batch.cache.used
    for (lane, rows), tree in zip(batch.going.items(), batch.trees, strict=True):
        first = lane * slots + used[lane]
        for at, row in enumerate(rows):
            position, branch = row.length - 1, tree.branch[row] if tree else SHARED
            yield Column(row.last, position, branch, first + at, position, len(rows), row.left)
        for _ in range(batch.widest - len(rows)):
            yield Column(0, 0, SHARED, (lane + 1) * slots - 1, FREE, 0, 0)
