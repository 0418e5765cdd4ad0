"""The engine's fast path: lean sub-layers over lanes, many questions in flight, finished ones replaced.

Tokens are the plain path's own (in float32), for every family and plan. What it cannot run, it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder, Path, Step
from litestage.decoder.lean import LeanDecoder
from litestage.engine.attention import Pass
from litestage.engine.batching import ContinuousBatch
from litestage.engine.bundle import Bundle, bundles
from litestage.engine.carry import Carry, Held, alike
from litestage.engine.lanes import Lanes
from litestage.engine.memory import rows_that_fit
from litestage.engine.rows import Row, Sampler
from litestage.engine.slots import SHARED
from litestage.engine.static import StaticDecoding
from litestage.plan import SkipSet, StagePlan
from litestage.plan.skip import SubLayerName
from litestage.plan.stage import CHANGED

ROWS_EACH = 8
"""Rows that are worth a thread of their own, at least."""
BEGINNING = 16
"""Tokens that all prompts begin with, at least, to be prefilled once for all."""
MANY = 4
"""Prompts that there are at least for that."""


class FastPath:
    """Runs rows under a plan.

    Args:
        static: decode in static steps where they can (:mod:`litestage.engine.static`): what a GPU needs.
        compiling: whether those are compiled; see :func:`litestage.engine.compiled.unable`.

    Attributes:
        lean: the decoder's sub-layers in lean form.
        static: the static steps, or None.
    """

    def __init__(self, decoder: Decoder, static: bool = False, compiling: str = "auto") -> None:
        self.decoder, self.lean = decoder, LeanDecoder(decoder)
        self.static = StaticDecoding(self, compiling) if static else None
        self._attentions = {id(step) for (kind, _), step in self.lean.sublayers.items() if kind == "mhsa"}

    @staticmethod
    def refuses(decoder: Decoder, plan: StagePlan) -> str | None:
        """Why the plain path runs this plan, or None where the fast path can."""
        if decoder.longrope_limit is not None:
            return "rotary factors change with a row's length (longrope)"
        return None

    def path(
        self,
        plan: StagePlan,
        phase: str,
        skip: SkipSet | None = None,
        instead: Mapping[SubLayerName, Step] = MappingProxyType({}),
        sublayers: Mapping[SubLayerName, Step] | None = None,
    ) -> Path:
        """The functions to run: lean where the plan leaves a sub-layer as it is, the decoder's own stand-ins else.

        ``skip`` and ``instead`` are a schedule's, as in :meth:`litestage.decoder.decoder.Decoder.path`; ``sublayers``
        another make than the lean one.
        """
        skip = plan.skip if skip is None else skip
        skips = plan.phase == "both" or phase == "decode"
        changes = plan.compensation in CHANGED and skips and len(skip) > 0
        lean = {}
        for name, sublayer in (sublayers or self.lean.sublayers).items():
            tensor = plan.tensors.get(f"{name[0]}.{name[1]}") if changes else None
            made = sublayer if tensor is None else self.lean.changed(plan.compensation, name[1], tensor)
            if made is not None and not (skips and name in skip):
                lean[name] = made
        return self.decoder.path(plan, phase, skip, {**lean, **instead})

    def run(
        self,
        rows: Sequence[Row],
        plan: StagePlan,
        sampler: Sampler,
        clock: Callable[[], float],
        most: int,
        carry: Carry | None = None,
    ) -> float:
        """Decodes all rows to their ends; returns the seconds of set-up and prefill.

        At most ``most`` rows are in flight at a time, and no more than free memory holds.

        A small model's matrices are too small to be multiplied by two cores at a time: each has questions of its own.
        """
        started = clock()
        waiting = bundles(rows, most)
        static = None if self.static is None or self.static.refuses(plan) else self.static
        self._begin(waiting, plan, carry.take(plan) if carry else {})
        waiting.sort(key=lambda bundle: len(bundle.new))
        kept = carry if carry and carry.wants(plan) else None
        threads = 1 if static else self._threads(waiting, plan)  # static steps have one set of lanes
        lanes = self._lanes_in_flight(waiting, most) // threads
        batches = [
            ContinuousBatch(self, waiting[first::threads], plan, sampler, clock, static, kept, lanes)
            for first in range(threads)
        ]
        set_up = clock() - started
        if threads == 1:
            batches[0].run()
        else:
            self._side_by_side(batches)
        for batch in batches:
            self.decoder.work.add(batch.work)
        return set_up + sum(batch.prefill_s for batch in batches) / threads

    def _lanes_in_flight(self, waiting: Sequence[Bundle], most: int) -> int:
        lanes = most // max(len(bundle.rows) for bundle in waiting)
        if len(waiting) > 1:  # one needs its lane in any case
            ours = self.static.nbytes if self.static else 0
            fit = rows_that_fit(self.decoder, max(bundle.slots for bundle in waiting), ours)
            lanes = lanes if fit is None else min(lanes, fit)
        return lanes

    def _threads(self, waiting: Sequence[Bundle], plan: StagePlan) -> int:
        if not self.lean.fused or self.decoder.device.type != "cpu" or plan.schedule is not None:
            return 1
        rows = sum(len(bundle.rows) for bundle in waiting)
        return max(1, min(torch.get_num_threads(), rows // ROWS_EACH, len(waiting)))

    def _side_by_side(self, batches: Sequence[ContinuousBatch]) -> None:
        threads = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(len(batches), initializer=torch.set_num_threads, initargs=(1,)) as pool:
                list(pool.map(ContinuousBatch.run, batches))
        finally:
            torch.set_num_threads(threads)

    def _begin(self, waiting: Sequence[Bundle], plan: StagePlan, carried: Mapping[int, Held]) -> None:
        """Gives every bundle what is held of its prompt: by the stage before, or because all prompts begin alike."""
        for bundle in waiting:
            held = carried.get(bundle.rows[0].request.group)
            if held is not None:
                bundle.begin_with(held)
        first = waiting[0].beginning if len(waiting) >= MANY else []
        common = first[: min((alike(first, bundle.beginning) for bundle in waiting), default=0)]
        if len(common) >= BEGINNING and any(bundle.known < len(common) for bundle in waiting):
            held = self._prefilled(common, plan)[0].held(0, [(SHARED, common)])
            for bundle in waiting:
                bundle.begin_with(held)

    def next_token_logits(self, prompt: Sequence[int], plan: StagePlan) -> Tensor:
        """Logits [vocabulary] after one prompt."""
        return self._prefilled(prompt, plan)[1]

    def _prefilled(self, prompt: Sequence[int], plan: StagePlan) -> tuple[Lanes, Tensor]:
        """One lane that holds the prompt, and the logits [vocabulary] after it."""
        lanes = self.lanes(1, len(prompt))
        tokens = [(token, position, SHARED) for position, token in enumerate(prompt)]
        attending = lanes.enter([0], [tokens], fresh=True)
        logits = self.logits(attending, self.path(plan, "prefill"), [len(prompt) - 1])
        self.decoder.work.forwarded(len(prompt))
        return lanes, logits[0]

    def lanes(self, count: int, slots: int) -> Lanes:
        """Empty lanes."""
        return Lanes(self.lean, count, slots, self.decoder.device)

    def keep(self, lanes: Lanes, held: list[Bundle | None]) -> tuple[Lanes, list[Bundle | None]]:
        """Drops the lanes that hold nothing."""
        lanes.keep([lane for lane, bundle in enumerate(held) if bundle is not None])
        return lanes, [bundle for bundle in held if bundle is not None]

    def logits(self, attending: Pass, path: Path, picked: Sequence[int]) -> Tensor:
        """Next-token logits [picked, vocabulary] of one pass. Only they go on behind the last attention."""
        stream = self.decoder.embed(attending.ids)
        behind = 1 + max((index for index, step in enumerate(path) if id(step) in self._attentions), default=-1)
        for step in path[:behind]:
            stream = step(stream, attending)  # type: ignore[arg-type]
        if len(picked) < len(stream):
            stream = stream[torch.tensor(picked, device=stream.device)]
        for step in path[behind:]:
            stream = step(stream, attending)  # type: ignore[arg-type]
        return self.lean.logits(stream)
