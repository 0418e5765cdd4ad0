"""Continuous batching: bundles of rows go through lanes, and those that have ended are replaced by waiting ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from litestage.decoder.decoder import Path
from litestage.decoder.work import Work
from litestage.engine.attention import Pass
from litestage.engine.bundle import Bundle
from litestage.engine.carry import Carry
from litestage.engine.rows import Row, Sampler
from litestage.engine.schedule import Course
from litestage.engine.slots import Token
from litestage.engine.verify import agreeing_draft
from litestage.plan import StagePlan

if TYPE_CHECKING:
    from torch import Tensor

    from litestage.engine.fast import FastPath
    from litestage.engine.static import StaticDecoding

IN_FLIGHT = 64
"""Rows that are decoded together at most, where memory allows it."""
PREFILLED = 2048
"""Prompt tokens, padding included, that are prefilled together at most."""


class ContinuousBatch:
    """Takes bundles to their ends, in lanes of its own.

    Args:
        path: whose sub-layers are run.
        waiting: the bundles, those with most to prefill last.
        static: decodes in static steps, or None.
        carry: what the rows leave goes there, or None.
        most: lanes at most.

    Attributes:
        prefill_s: seconds spent on prompts.
        work: what was forwarded.
    """

    def __init__(
        self,
        path: FastPath,
        waiting: list[Bundle],
        plan: StagePlan,
        sampler: Sampler,
        clock: Callable[[], float],
        static: StaticDecoding | None,
        carry: Carry | None,
        most: int,
    ) -> None:
        self._path, self._waiting, self._plan, self._sampler = path, waiting, plan, sampler
        self._clock, self._static, self._carry = clock, static, carry
        self._course = Course(path.decoder, plan, path.path, path.lean.sublayers)
        if static is None:
            self._course.prepare()
        self._prefill_path = path.path(plan, "prefill")
        self._widest = max(len(bundle.rows) for bundle in waiting)
        # a schedule's rows keep step with those they were prefilled with: one lane
        most = 1 if self._course.splits else max(1, min(most, IN_FLIGHT // self._widest))
        slots = max(bundle.first_slots for bundle in waiting)
        self._lanes = (static or path).lanes(min(len(waiting), most), slots)
        self._held: list[Bundle | None] = [None] * len(self._lanes.used)
        self.prefill_s, self.work = 0.0, Work()

    @torch.inference_mode()
    def run(self) -> None:
        """Decodes all rows to their ends."""
        while self._waiting or any(self._held):
            free = [lane for lane, bundle in enumerate(self._held) if bundle is None]
            if self._waiting and 4 * len(free) >= len(self._held):
                self._refill(free)
            else:
                if not self._waiting and 4 * len(free) >= len(self._held) > 1:
                    self._lanes, self._held = (self._static or self._path).keep(self._lanes, self._held)
                if self._static:
                    self._static.advance(self._held, self._lanes, self._widest, self._plan, self._sampler)
                else:
                    self._step()
            self._land()

    def _land(self) -> None:
        """Frees the lanes of bundles whose rows have all ended."""
        for lane, bundle in enumerate(self._held):
            if bundle is not None and not bundle.going:
                if any(row.stop == "non_finite" for row in bundle.rows):
                    self._lanes.wipe(lane)
                elif self._carry is not None:
                    self._carry.leave(bundle.rows[0].request.group, bundle.leave(self._lanes, lane))
                self._held[lane] = None

    def _refill(self, free: Sequence[int]) -> None:
        """Prefills as many waiting bundles as there are free lanes and room for; chooses their rows' first tokens."""
        began = self._clock()
        new: dict[int, Bundle] = {}
        for lane in free:
            if not self._waiting or (new and (len(new) + 1) * len(self._waiting[-1].new) > PREFILLED):
                break
            new[lane] = self._held[lane] = self._waiting.pop()
        fresh = not any(bundle.known for bundle in new.values())
        if not fresh:
            for lane, bundle in new.items():
                bundle.fill(self._lanes, lane)
        tokens = [bundle.new for bundle in new.values()]
        each = max(map(len, tokens))
        last = [index * each + at - bundle.known for index, bundle in enumerate(new.values()) for at in bundle.last]
        logits = self._logits(self._lanes.enter(list(new), tokens, fresh=fresh), self._prefill_path, last)
        self._sampler.advance([row for bundle in new.values() for row in bundle.rows], logits)
        self.prefill_s += self._clock() - began
        if not self._course.splits:
            self._verify(new)

    def _step(self) -> None:
        """One token for every row that is going; rows that a schedule has sent different ways run after each other."""
        going = [bundle.going if bundle is not None else [] for bundle in self._held]
        rows = [row for of_lane in going for row in of_lane]
        groups = self._course.groups(rows, [len(row.tokens) for row in rows])
        if len(groups) == 1:
            return self._advance(going)
        for group in groups:  # all in one lane
            self._advance([[rows[index] for index in group]])

    def _advance(self, going: Sequence[Sequence[Row]]) -> None:
        """One token for rows of one path, given by lane."""
        rows = [row for of_lane in going for row in of_lane]
        tokens: list[list[Token]] = [
            [(row.last, row.length - 1, bundle.branch[row]) for row in of_lane] if bundle else []
            for bundle, of_lane in zip(self._held, going, strict=True)
        ]
        each = max(map(len, tokens))
        self.work.steps += 1
        picked = [lane * each + at for lane, new in enumerate(tokens) for at in range(len(new))]
        path = self._course.path(rows, len(rows[0].tokens))
        attending = self._lanes.enter(range(len(self._held)), tokens)
        self._sampler.advance(rows, self._logits(attending, path, picked))

    def _verify(self, new: dict[int, Bundle]) -> None:
        """Takes the new bundles' rows as far as their drafts agree; see :mod:`litestage.engine.verify`."""
        fed = {row: agreeing_draft(row) for bundle in new.values() for row in bundle.going}
        if not self._sampler.greedy or not any(row.request.draft for row in fed):
            return
        tokens: list[list[Token]] = [[] for _ in new]
        at_first: dict[Row, tuple[int, int]] = {}
        for index, bundle in enumerate(new.values()):
            for row in bundle.going:
                at_first[row] = index, len(tokens[index])
                start, branch = row.length - 1, bundle.branch[row]
                tokens[index] += [(token, start + offset, branch) for offset, token in enumerate(fed[row])]
        each = max(map(len, tokens))
        path = self._course.path(list(fed), 1)
        attending = self._lanes.enter(list(new), tokens)
        logits = self._logits(attending, path, range(len(tokens) * each)).view(len(tokens), each, -1)
        following, step = list(fed), 0
        while following := [
            row for row in following if row.stop is None and step < len(fed[row]) and row.last == fed[row][step]
        ]:
            at = [at_first[row][0] for row in following], [at_first[row][1] + step for row in following]
            self._sampler.advance(following, logits[at])
            step += 1
        lanes = list(new.items())
        for row, (index, _) in at_first.items():
            lane, bundle = lanes[index]
            self._lanes.forget(lane, bundle.branch[row], row.length - 1)

    def _logits(self, attending: Pass, path: Path, picked: Sequence[int]) -> Tensor:
        self.work.forwarded(len(attending.ids))
        return self._path.logits(attending, path, picked)
