"""Step costs: seconds of one forward pass as a function of what runs, measured in the engine that will run it.

A pass of ``q`` new tokens for ``r`` rows at context ``c``, with ``A`` attention and ``F`` feed-forward sub-layers,
costs ``f0 + f1 rq + (a0 + a1 rq + a2 rqc) A + (m0 + m1 rq) F`` seconds, one set of coefficients for prefill and one
for decode (they run different kernels). Coefficients are not negative and minimise the relative error. What stands in
for skipped sub-layers costs ``s0 + s1 rq`` seconds each, measured by form where a plan has some.

A stage's rows share a lane: their prompts are one pass over what they share and each row's rest. Where the host writes
out the decode steps, a step forwards the rows that are going; a *static* one (CUDA) all the rows it was made for, until
the last has ended. All seconds are the engine's: what it takes to render and tokenise prompts is in a measured latency
and not in a predicted one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

from litestage.engine import share_a_lane
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.plan.schedule import step_sets
from litestage.plan.stage import stand_ins
from litestage.trace import StageTrace, Trace

StandIn = tuple[float, float]
"""Seconds of one stand-in in one pass: fixed, and per token."""


@dataclass(frozen=True)
class StandInCosts:
    """What one stand-in of some form costs.

    Attributes:
        prefill, decode: in a pass of each phase, as it enters predictions: never below 0.
        decode_step_ci95: 95 % interval of its seconds in one row's decode step, which may reach below 0; None where it
            was not measured.
        held_out_error: median relative error of whole-generation times with stand-ins, on a mask that was not in the
            fit; None where it was not measured.
    """

    prefill: StandIn
    decode: StandIn
    decode_step_ci95: tuple[float, float] | None = None
    held_out_error: float | None = None

    @property
    def measurable(self) -> bool:
        """Whether the price can be told from 0."""
        return self.decode_step_ci95 is not None and self.decode_step_ci95[0] > 0

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> StandInCosts:
        interval = raw["decode_step_ci95"]
        prefill, decode = ((raw[phase][0], raw[phase][1]) for phase in ("prefill", "decode"))
        return cls(prefill, decode, interval and (interval[0], interval[1]), raw["held_out_error"])


@dataclass(frozen=True)
class StepCosts:
    """Fitted coefficients (seconds) and how far they were off on masks that were not in the fit.

    Attributes:
        layers: layers of the model.
        prefill, decode: the seven coefficients of each phase, in the order of :func:`_features`.
        held_out_error: median relative error of whole-generation times on held-out masks: of rows of equal length, or
            of unequal ones that share a prompt's beginning, whichever is larger.
        stand_ins: by form of compensation, what one stand-in costs.
        path: who decodes: ``host`` or ``static``.
    """

    layers: int
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    held_out_error: float
    stand_ins: Mapping[str, StandInCosts] = field(default_factory=dict)
    path: str = "host"

    def stage_seconds(self, plan: StagePlan, trace: StageTrace) -> tuple[float, float]:
        """Predicted prefill and decode seconds of one question's stage, run alone, from its token counts."""
        if trace.one_by_one:
            parts = [
                self._together(plan, (prompt,), 0, (tokens,))
                for prompt, tokens in zip(trace.prompt_tokens, trace.tokens, strict=True)
            ]
            return sum(prefill for prefill, _ in parts), sum(decode for _, decode in parts)
        return self._together(plan, trace.prompt_tokens, trace.shared_tokens, trace.tokens)

    def by_stage(self, plan: Plan, trace: Trace) -> dict[str, float]:
        """Predicted seconds of every stage of one question, run alone."""
        return {stage.name: sum(self.stage_seconds(plan[stage.name], stage)) for stage in trace.stages}

    def generation_prices(self, context: int) -> dict[str, float]:
        """By kind, the seconds that one sub-layer takes of one row of 1,024 prompt and 512 new tokens, or of as much of
        them, in that proportion, as ``context`` holds: what leaving out a quarter of the kind saves, divided.

        A price that cannot be told from 0 is a hundredth of the other kind's.
        """
        tokens = max(1, min(512, context // 3))
        quarter = tuple(range(max(1, self.layers // 4)))

        def seconds(skip: SkipSet) -> float:
            return sum(self._together(StagePlan(skip), (2 * tokens,), 0, (tokens,)))

        full = seconds(SkipSet())
        saved = {"mhsa": full - seconds(SkipSet(mhsa=quarter)), "ffn": full - seconds(SkipSet(ffn=quarter))}
        return {kind: max(price, max(saved.values()) / 100) / len(quarter) for kind, price in saved.items()}

    def _together(
        self, plan: StagePlan, prompts: Sequence[int], shared: int, tokens: Sequence[int]
    ) -> tuple[float, float]:
        """Seconds of rows that run together: prompt lengths, how much of them is shared, and new tokens."""
        rows = [(prompt, count) for prompt, count in zip(prompts, tokens, strict=True) if count]  # 0: did not fit
        if not rows:
            return 0.0, 0.0
        longest, ends = max(prompt for prompt, _ in rows), sorted(count for _, count in rows)
        tree = shared + sum(prompt - shared for prompt, _ in rows)
        one_lane = share_a_lane(tree + sum(ends), longest + ends[-1])
        prefill = self._pass(plan, 0, 1, tree, tree) if one_lane else self._pass(plan, 0, len(rows), longest, longest)
        decode, done = 0.0, 1  # the first token comes out of the prefill
        static = self.path == "static" and plan.schedule is None
        for index, end in enumerate(ends):
            running = len(rows) if static else len(rows) - index
            for first, last in _unchanging(plan, done, end):
                length = (first + last) / 2  # of every row that is going
                slots = longest + length
                if one_lane:
                    slots = tree + sum(ends[:index]) + (len(rows) - index) * length
                decode += (last - first) * self._pass(plan, first, running, 1, slots)
            done = max(done, end)
        return prefill, decode

    def _pass(self, plan: StagePlan, token: int, rows: int, queries: int, context: float) -> float:
        """Seconds of one pass: of the prompt (``token`` 0) or of the ``token``-th generated token."""
        skip = plan.skip_at(token)
        skip = plan.skip if skip is None else skip  # an online rule: as far as it is known beforehand
        coefficients = self.decode if token else self.prefill
        seconds = dot(coefficients, features(rows, queries, context, *active(self.layers, skip)))
        if plan.compensation in self.stand_ins:
            prices = self.stand_ins[plan.compensation]
            fixed, per_token = prices.decode if token else prices.prefill
            seconds += len(stand_ins(skip, plan.compensation)) * (fixed + per_token * rows * queries)
        return seconds

    def pass_seconds(self, skip: SkipSet, *, prompt: int, context: int) -> tuple[float, float]:
        """Predicted seconds of one row's prefill of ``prompt`` tokens and of one decode step at ``context``."""
        plan = StagePlan(skip)
        return self._pass(plan, 0, 1, prompt, prompt), self._pass(plan, 1, 1, 1, context)

    def sublayer_seconds(self, context: int) -> dict[str, float]:
        """What one attention and one feed-forward sub-layer take in a decode step of one row at ``context``."""
        sets = SkipSet(), SkipSet(mhsa=(0,)), SkipSet(ffn=(0,))
        full, *without = (self.pass_seconds(skip, prompt=1, context=context)[1] for skip in sets)
        return {kind: max(1e-9, full - seconds) for kind, seconds in zip(("mhsa", "ffn"), without, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> StepCosts:
        stand_ins = {form: StandInCosts.from_dict(prices) for form, prices in raw["stand_ins"].items()}
        coefficients = tuple(raw["prefill"]), tuple(raw["decode"])
        return cls(raw["layers"], *coefficients, raw["held_out_error"], stand_ins, raw["path"])


def _unchanging(plan: StagePlan, start: int, end: int) -> list[tuple[int, int]]:
    """The generated tokens from ``start`` up to ``end`` in parts in which the same sub-layers are skipped."""
    changes = [at for at, _ in step_sets(plan.schedule) if start < at < end]
    return [(first, last) for first, last in pairwise([start, *changes, end]) if last > first]


def active(layers: int, skip: SkipSet) -> tuple[int, int]:
    return layers - len(skip.mhsa), layers - len(skip.ffn)


def features(rows: int, queries: int, context: float, mhsa: int, ffn: int) -> list[float]:
    tokens = rows * queries
    return [1.0, tokens, mhsa, mhsa * tokens, mhsa * tokens * context, ffn, ffn * tokens]


def dot(coefficients: Sequence[float], features: Sequence[float]) -> float:
    return sum(c * f for c, f in zip(coefficients, features, strict=True))
