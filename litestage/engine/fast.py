"""The engine's fast path: lean sub-layers over lanes, many questions in flight, finished ones replaced.

Tokens are the plain path's own (in float32), for every family and plan. What it cannot run, it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder, Path, Step
from litestage.decoder.lean import LeanDecoder
from litestage.engine.bundle import Bundle, bundles
from litestage.engine.lanes import Lanes, Pass, Token
from litestage.engine.rows import Row, Sampler
from litestage.engine.schedule import Course
from litestage.engine.static import StaticDecoding
from litestage.engine.verify import agreeing_draft
from litestage.plan import SkipSet, StagePlan
from litestage.plan.skip import SubLayerName

IN_FLIGHT = 64
"""Rows that are decoded together at most."""
PREFILLED = 2048
"""Prompt tokens, padding included, that are prefilled together at most."""


class FastPath:
    """Runs rows under a plan.

    Args:
        static: decode in static steps where they can (:mod:`litestage.engine.static`): what a GPU needs.

    Attributes:
        lean: the decoder's sub-layers in lean form.
        static: the static steps, or None.
    """

    def __init__(self, decoder: Decoder, static: bool = False) -> None:
        self.decoder, self.lean = decoder, LeanDecoder(decoder)
        self.static = StaticDecoding(self) if static else None
        self._attentions = {id(step) for (kind, _), step in self.lean.sublayers.items() if kind == "mhsa"}

    @staticmethod
    def refuses(decoder: Decoder, plan: StagePlan) -> str | None:
        """Why the plain path runs this plan, or None where the fast path can."""
        if decoder.longrope_limit is not None:
            return "rotary factors that change with a row's length (longrope) have rows run anew"
        return None

    def path(
        self,
        plan: StagePlan,
        phase: str,
        skip: SkipSet | None = None,
        instead: Mapping[SubLayerName, Step] = MappingProxyType({}),
    ) -> Path:
        """The functions to run: lean where the plan leaves a sub-layer as it is, the decoder's own stand-ins else.

        ``skip`` and ``instead`` are a schedule's, as in :meth:`litestage.decoder.decoder.Decoder.path`.
        """
        skip = plan.skip if skip is None else skip
        skips = plan.phase == "both" or phase == "decode"
        merged = plan.compensation == "merged" and skips and len(skip) > 0
        lean = {
            name: sublayer
            for name, sublayer in self.lean.sublayers.items()
            if not (skips and name in skip) and not (merged and f"{name[0]}.{name[1]}" in plan.tensors)
        }
        return self.decoder.path(plan, phase, skip, {**lean, **instead})

    def run(
        self, rows: Sequence[Row], plan: StagePlan, sampler: Sampler, seconds: list[float], clock: Callable[[], float]
    ) -> None:
        """Decodes all rows to their ends; adds prefill and decode seconds to ``seconds``."""
        started, prefilling = clock(), 0.0
        waiting = sorted(bundles(rows), key=lambda bundle: len(bundle.prompt))  # popped from the end: longest first
        widest = max(len(bundle.rows) for bundle in waiting)
        course = Course(self.decoder, plan, self.path, self.lean.sublayers)
        # a schedule's rows keep step with those they were prefilled with: one lane
        most = 1 if course.splits else max(1, IN_FLIGHT // widest)
        static = None if self.static is None or self.static.refuses(plan) else self.static
        lanes = (static or self).lanes(min(len(waiting), most), max(bundle.first_slots for bundle in waiting))
        held: list[Bundle | None] = [None] * len(lanes.used)
        prefill = self.path(plan, "prefill")
        while True:
            free = [lane for lane, bundle in enumerate(held) if bundle is None]
            if waiting and 4 * len(free) >= len(held):
                began = clock()
                new = self._prefill(free, waiting, lanes, prefill, sampler)
                held = [new.get(lane, bundle) for lane, bundle in enumerate(held)]
                prefilling += clock() - began
                if not course.splits:
                    self._verify(held, new, lanes, course.path(new[next(iter(new))].rows, 1), sampler)
            else:
                if not waiting and 4 * len(free) >= len(held) > 1 and len(free) < len(held):
                    lanes, held = (static or self).keep(lanes, held)
                if static:
                    static.advance(held, lanes, widest, plan, sampler)
                else:
                    self._step(held, lanes, course, sampler)
            held = [bundle if bundle is not None and bundle.going else None for bundle in held]
            if not waiting and not any(held):
                break
        seconds[0] += prefilling
        seconds[1] += clock() - started - prefilling

    def _prefill(
        self, free: list[int], waiting: list[Bundle], lanes: Lanes, path: Path, sampler: Sampler
    ) -> dict[int, Bundle]:
        """Prefills as many waiting bundles as there are free lanes and room for; chooses their rows' first tokens."""
        new: dict[int, Bundle] = {}
        for lane in free:
            if not waiting or (new and (len(new) + 1) * len(waiting[-1].prompt) > PREFILLED):
                break
            new[lane] = waiting.pop()
        tokens = [bundle.prompt for bundle in new.values()]
        each = max(map(len, tokens))
        last = [index * each + at for index, bundle in enumerate(new.values()) for at in bundle.last]
        logits = self._logits(lanes.enter(list(new), tokens, fresh=True), path, last)
        sampler.advance([row for bundle in new.values() for row in bundle.rows], logits)
        return new

    def lanes(self, count: int, slots: int) -> Lanes:
        """Empty lanes."""
        return Lanes(self.lean, count, slots, self.decoder.device)

    def keep(self, lanes: Lanes, held: list[Bundle | None]) -> tuple[Lanes, list[Bundle | None]]:
        """Drops the lanes that hold nothing."""
        lanes.keep([lane for lane, bundle in enumerate(held) if bundle is not None])
        return lanes, [bundle for bundle in held if bundle is not None]

    def _step(self, held: Sequence[Bundle | None], lanes: Lanes, course: Course, sampler: Sampler) -> None:
        """One token for every row that is going; rows that a schedule has sent different ways run after each other."""
        going = [bundle.going if bundle is not None else [] for bundle in held]
        rows = [row for of_lane in going for row in of_lane]
        groups = course.groups(rows, [len(row.tokens) for row in rows])
        if len(groups) == 1:
            return self._advance(held, going, lanes, course, sampler)
        for group in groups:  # all in one lane
            self._advance(held, [[rows[index] for index in group]], lanes, course, sampler)

    def _advance(
        self,
        held: Sequence[Bundle | None],
        going: Sequence[Sequence[Row]],
        lanes: Lanes,
        course: Course,
        sampler: Sampler,
    ) -> None:
        """One token for rows of one path, given by lane."""
        rows = [row for of_lane in going for row in of_lane]
        tokens: list[list[Token]] = [
            [(row.last, row.length - 1, bundle.branch[row]) for row in of_lane] if bundle else []
            for bundle, of_lane in zip(held, going, strict=True)
        ]
        each = max(map(len, tokens))
        self.decoder.work.steps += 1
        picked = [lane * each + at for lane, new in enumerate(tokens) for at in range(len(new))]
        path = course.path(rows, len(rows[0].tokens))
        sampler.advance(rows, self._logits(lanes.enter(range(len(held)), tokens), path, picked))

    def _verify(
        self, held: Sequence[Bundle | None], new: dict[int, Bundle], lanes: Lanes, path: Path, sampler: Sampler
    ) -> None:
        """Takes the new bundles' rows as far as their drafts agree; see :mod:`litestage.engine.verify`."""
        fed = {row: agreeing_draft(row) for bundle in new.values() for row in bundle.going}
        if not sampler.greedy or not any(row.request.draft for row in fed):
            return
        tokens: list[list[Token]] = [[] for _ in held]
        first: dict[Row, int] = {}
        for lane, bundle in new.items():
            for row in bundle.going:
                first[row] = len(tokens[lane])
                start, branch = row.length - 1, bundle.branch[row]
                tokens[lane] += [(token, start + offset, branch) for offset, token in enumerate(fed[row])]
        each = max(map(len, tokens))
        attending = lanes.enter(range(len(held)), tokens)
        logits = self._logits(attending, path, range(len(held) * each)).view(len(held), each, -1)
        lane_of = {row: lane for lane, bundle in new.items() for row in bundle.going}
        following, step = list(fed), 0
        while following := [
            row for row in following if row.stop is None and step < len(fed[row]) and row.last == fed[row][step]
        ]:
            at = [lane_of[row] for row in following], [first[row] + step for row in following]
            sampler.advance(following, logits[at])
            step += 1
        for row, lane in lane_of.items():
            lanes.forget(lane, held[lane].branch[row], row.length - 1)  # type: ignore[union-attr]

    def _logits(self, attending: Pass, path: Path, picked: Sequence[int]) -> Tensor:
        """Next-token logits [picked, vocabulary] of one pass. Only they go on behind the last attention."""
        stream = self.decoder.embed(attending.ids)
        self.decoder.work.forwarded(len(attending.ids))
        behind = 1 + max((index for index, step in enumerate(path) if id(step) in self._attentions), default=-1)
        for step in path[:behind]:
            stream = step(stream, attending)  # type: ignore[arg-type]
        if len(picked) < len(stream):
            stream = stream[torch.tensor(picked, device=stream.device)]
        for step in path[behind:]:
            stream = step(stream, attending)  # type: ignore[arg-type]
        return self.lean.logits(stream)
