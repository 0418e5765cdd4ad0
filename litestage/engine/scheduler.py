"""The scheduler: which rows are in flight, when they join and when they leave. Ended ones are replaced by waiting ones.

Where many questions go together, what all prompts begin with is prefilled once. A small model's matrices are too small
to be multiplied by two cores at a time: there each thread has questions of its own, dealt out beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from litestage.engine import memory
from litestage.engine.attention import SHARED
from litestage.engine.drafting import Drafter
from litestage.engine.layer_schedule import LayerSchedule
from litestage.engine.prefix_cache import CachedPrefix, PrefixCache, common_length
from litestage.engine.prompt_tree import PromptTree, prompt_trees
from litestage.engine.rows import Row
from litestage.engine.runner import HostRunner
from litestage.engine.sampler import Sampler
from litestage.plan import StagePlan

MAX_ROWS = 64
"""Rows that are decoded together at most, where memory allows it."""
MAX_PREFILL_TOKENS = 2048
"""Prompt tokens, padding included, that are prefilled together at most."""
MIN_ROWS_PER_THREAD = 8
"""Rows that are worth a thread of their own, at least."""
MIN_SHARED_BEGINNING = 16
"""Tokens that all prompts begin with, at least, to be prefilled once for all."""
MIN_PROMPTS_TO_SHARE = 4
"""Prompts that there are at least for that."""


def run(
    runner: HostRunner,
    rows: Sequence[Row],
    layers: LayerSchedule,
    sampler: Sampler,
    clock: Callable[[], float],
    most: int,
    prefixes: PrefixCache | None = None,
) -> float:
    """Decodes all rows to their ends, or to where their texts are to be run anew; returns the seconds until all had
    their first tokens.

    At most ``most`` rows are in flight at a time, and no more than free memory holds.
    """
    started, plan = clock(), layers.plan
    limit = runner.decoder.longrope_limit
    waiting = prompt_trees(rows, most, limit)
    if limit is not None:
        prefixes = None  # a text's rotary factors change with its length
    else:
        _share_beginnings(runner, waiting, plan, prefixes.take(plan) if prefixes else {})
    waiting.sort(key=lambda tree: len(tree.new))  # those with most to prefill go first, from the end
    leave = prefixes if prefixes and prefixes.wanted else None
    threads = _threads(runner, waiting, plan)
    lanes = _lanes(runner, waiting, most) // threads
    parts = [waiting[first::threads] for first in range(threads)]
    schedulers = [Scheduler(runner, part, layers, sampler, clock, lanes, leave) for part in parts]
    set_up = clock() - started
    if threads == 1:
        schedulers[0].run()
    else:
        _side_by_side(schedulers)
    for scheduler in schedulers:
        runner.decoder.work.add(scheduler.batch.work)
    return set_up + sum(scheduler.prefill_s for scheduler in schedulers) / threads


class Scheduler:
    """Takes prompt trees to their ends, in a batch of its own.

    Args:
        waiting: the trees; the last goes first.
        lanes: that the batch has at most.
        leave: takes what the rows leave to the next stage, or None.

    Attributes:
        batch: the rows in flight.
        prefill_s: seconds spent on prompts.
    """

    def __init__(
        self,
        runner: HostRunner,
        waiting: list[PromptTree],
        layers: LayerSchedule,
        sampler: Sampler,
        clock: Callable[[], float],
        lanes: int,
        leave: PrefixCache | None,
    ) -> None:
        self._runner, self._waiting, self._clock, self._leave = runner, waiting, clock, leave
        plan, widest = layers.plan, max(len(tree.rows) for tree in waiting)
        lanes = min(len(waiting), max(1, min(lanes, MAX_ROWS // widest)))
        slots = max(tree.first_slots for tree in waiting)
        self.batch = runner.batch(layers, sampler, lanes=lanes, slots=slots, widest=widest)
        tries = plan.exit is not None and bool(plan.exit.on_trial)  # then a trial may stand between any two tokens
        drafts = plan.draft and sampler.greedy and not tries
        self._decode = Drafter(runner, plan).decode if drafts else runner.decode
        self._before = runner.try_answers if tries else None
        self._verifies = sampler.greedy and not self.batch.layers.splits and not tries
        self.prefill_s = 0.0

    @torch.inference_mode()
    def run(self) -> None:
        """Decodes all rows to their ends."""
        batch = self.batch
        while self._waiting or any(batch.trees):
            free = [lane for lane, tree in enumerate(batch.trees) if tree is None]
            many_free = 4 * len(free) >= len(batch.trees)
            if self._waiting and many_free:
                self._join(free)
            else:
                if not self._waiting and many_free and len(batch.trees) > 1:
                    self._runner.shrink(batch)
                if self._before is not None:
                    self._before(batch)
                self._decode(batch)
            self._end()

    def _join(self, free: Sequence[int]) -> None:
        """Prefills as many waiting trees as there are free lanes and room for; verifies the drafts of their rows."""
        began = self._clock()
        new: list[int] = []
        for lane in free:
            if not self._waiting or (new and (len(new) + 1) * len(self._waiting[-1].new) > MAX_PREFILL_TOKENS):
                break
            self.batch.trees[lane] = self._waiting.pop()
            new.append(lane)
        self._runner.prefill(self.batch, new)
        self.prefill_s += self._clock() - began
        going = self.batch.going
        rows = [row for lane in new for row in going[lane]]
        if self._verifies and any(row.request.draft for row in rows):
            self._runner.verify(self.batch, {row: row.drafted for row in rows})

    def _end(self) -> None:
        """Frees the lanes of trees whose rows have all ended."""
        cache, trees = self.batch.cache, self.batch.trees
        for lane, tree in enumerate(trees):
            if tree is not None and not tree.going:
                if any(row.stop == "non_finite" for row in tree.rows):
                    cache.wipe(lane)
                elif self._leave is not None:
                    self._leave.put(tree.rows[0].request.group, tree.cached(cache, lane, self._leave.texts))
                trees[lane] = None


def _share_beginnings(
    runner: HostRunner, waiting: Sequence[PromptTree], plan: StagePlan, left: Mapping[int, CachedPrefix]
) -> None:
    """Gives every tree what is cached of its prompt: by the stage before, or because all prompts begin alike."""
    for tree in waiting:
        prefix = left.get(tree.rows[0].request.group)
        if prefix is not None:
            tree.begin_with(prefix)
    if len(waiting) < MIN_PROMPTS_TO_SHARE:
        return
    first = waiting[0].beginning
    common = first[: min(common_length(first, tree.beginning) for tree in waiting)]
    if len(common) >= MIN_SHARED_BEGINNING and any(tree.known < len(common) for tree in waiting):
        cache, _ = runner.prefix(common, plan)
        prefix = cache.copy_of(0, [(SHARED, common)])
        for tree in waiting:
            tree.begin_with(prefix)


def _lanes(runner: HostRunner, waiting: Sequence[PromptTree], most: int) -> int:
    """Lanes of which memory holds the keys and values, for at most so many rows."""
    lanes = most // max(len(tree.rows) for tree in waiting)
    # one needs its lane in any case
    if len(waiting) > 1 and (available := memory.available_bytes(runner.decoder.device)) is not None:
        each = max(tree.slots for tree in waiting) * memory.bytes_per_token(runner.decoder)
        lanes = min(lanes, int(memory.KV_SHARE * (available + runner.nbytes)) // each)
    return lanes


def _threads(runner: HostRunner, waiting: Sequence[PromptTree], plan: StagePlan) -> int:
    changing = plan.schedule is not None or runner.decoder.longrope_limit is not None  # what threads would share
    if changing or not runner.side_by_side or not runner.lean.fused or runner.decoder.device.type != "cpu":
        return 1
    rows = sum(len(tree.rows) for tree in waiting)
    return max(1, min(torch.get_num_threads(), rows // MIN_ROWS_PER_THREAD, len(waiting)))


def _side_by_side(schedulers: Sequence[Scheduler]) -> None:
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(schedulers), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(Scheduler.run, schedulers))
    finally:
        torch.set_num_threads(threads)
