"""Step costs: seconds of one forward pass as a function of what runs, measured in the engine that will run it.

A pass of ``q`` new tokens for ``r`` rows at context ``c``, with ``A`` attention and ``F`` feed-forward sub-layers,
costs ``f0 + f1 rq + (a0 + a1 rq + a2 rqc) A + (m0 + m1 rq) F`` seconds, one set of coefficients for prefill and one
for decode (they run different kernels). Coefficients are not negative and minimise the relative error. What stands in
for skipped sub-layers costs ``s0 + s1 rq`` seconds each, measured by form where a plan has some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from litestage.engine.plain import COMPACT
from litestage.plan import SkipSet, StagePlan
from litestage.plan.schedule import step_sets
from litestage.trace import StageTrace

StandIn = tuple[float, float]
"""Seconds of one stand-in in one pass: fixed, and per token."""


@dataclass(frozen=True)
class StepCosts:
    """Fitted coefficients (seconds) and how far they were off on masks that were not in the fit.

    Attributes:
        layers: layers of the model.
        prefill, decode: the seven coefficients of each phase, in the order of :func:`_features`.
        held_out_error: median relative error of whole-generation times on held-out masks.
        stand_ins: by form of compensation, what one stand-in costs in prefill and in decode.
    """

    layers: int
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    held_out_error: float
    stand_ins: Mapping[str, tuple[StandIn, StandIn]] = field(default_factory=dict)

    def stage_seconds(self, plan: StagePlan, trace: StageTrace) -> tuple[float, float]:
        """Predicted prefill and decode seconds of one question's stage, run alone, from its token counts."""
        if trace.one_by_one:
            parts = [
                self._together(plan, (prompt,), 0, (tokens,))
                for prompt, tokens in zip(trace.prompt_tokens, trace.tokens, strict=True)
            ]
            return sum(prefill for prefill, _ in parts), sum(decode for _, decode in parts)
        return self._together(plan, trace.prompt_tokens, trace.shared_tokens, trace.tokens)

    def _together(
        self, plan: StagePlan, prompts: Sequence[int], shared: int, tokens: Sequence[int]
    ) -> tuple[float, float]:
        """Seconds of rows that run together: prompt lengths, how much of them is shared, and new tokens."""
        rows = len(tokens)
        prefill = 0.0
        if shared:
            prefill += self._pass(plan, 0, 1, shared, shared)
        longest = max(prompts)
        prefill += self._pass(plan, 0, rows, longest - shared, longest)
        decode, running = 0.0, rows
        done = 1  # the first token comes out of the prefill
        for index, end in enumerate(sorted(tokens)):
            going = rows - index
            if going <= COMPACT * running:
                running = going
            for first, last in _unchanging(plan, done, end):
                decode += (last - first) * self._pass(plan, first, running, 1, longest + (first + last) / 2)
            done = max(done, end)
        return prefill, decode

    def _pass(self, plan: StagePlan, token: int, rows: int, queries: int, context: float) -> float:
        """Seconds of one pass: of the prompt (``token`` 0) or of the ``token``-th generated token."""
        skip = plan.skip_at(token)
        skip = plan.skip if skip is None else skip  # an online rule: as far as it is known beforehand
        coefficients = self.decode if token else self.prefill
        seconds = dot(coefficients, features(rows, queries, context, *active(self.layers, skip)))
        if plan.compensation in self.stand_ins:
            fixed, per_token = self.stand_ins[plan.compensation][1 if token else 0]
            count = len(skip.cuts) if plan.compensation == "block" else len(skip)
            seconds += count * (fixed + per_token * rows * queries)
        return seconds

    def pass_seconds(self, skip: SkipSet, *, prompt: int, context: int) -> tuple[float, float]:
        """Predicted seconds of one row's prefill of ``prompt`` tokens and of one decode step at ``context``."""
        running = active(self.layers, skip)
        prefill = dot(self.prefill, features(1, prompt, prompt, *running))
        return prefill, dot(self.decode, features(1, 1, context, *running))

    def sublayer_seconds(self, context: int) -> dict[str, float]:
        """What one attention and one feed-forward sub-layer take in a decode step of one row at ``context``."""
        full = self.pass_seconds(SkipSet(), prompt=1, context=context)[1]
        return {
            "mhsa": max(1e-9, full - self.pass_seconds(SkipSet(mhsa=(0,)), prompt=1, context=context)[1]),
            "ffn": max(1e-9, full - self.pass_seconds(SkipSet(ffn=(0,)), prompt=1, context=context)[1]),
        }

    def to_dict(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "prefill": list(self.prefill),
            "decode": list(self.decode),
            "held_out_error": self.held_out_error,
            "stand_ins": {form: [list(pair) for pair in pairs] for form, pairs in self.stand_ins.items()},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> StepCosts:
        stand_ins = cls.stand_ins_from(raw.get("stand_ins", {}))
        return cls(raw["layers"], tuple(raw["prefill"]), tuple(raw["decode"]), raw["held_out_error"], stand_ins)

    @staticmethod
    def stand_ins_from(raw: Mapping[str, Any]) -> dict[str, tuple[StandIn, StandIn]]:
        """Stand-ins by form, read back from plain data."""
        return {form: ((prefill[0], prefill[1]), (decode[0], decode[1])) for form, (prefill, decode) in raw.items()}


def _unchanging(plan: StagePlan, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The generated tokens from ``start`` up to ``end`` in parts in which the same sub-layers are skipped."""
    changes = [at for at, _ in step_sets(plan.schedule) if start < at < end]
    marks = [start, *changes, end]
    yield from ((first, last) for first, last in pairwise(marks) if last > first)


def active(layers: int, skip: SkipSet) -> tuple[int, int]:
    return layers - len(skip.mhsa), layers - len(skip.ffn)


def features(rows: int, queries: int, context: float, mhsa: int, ffn: int) -> list[float]:
    tokens = rows * queries
    return [1.0, tokens, mhsa, mhsa * tokens, mhsa * tokens * context, ffn, ffn * tokens]


def dot(coefficients: Sequence[float], features: Sequence[float]) -> float:
    return sum(c * f for c, f in zip(coefficients, features, strict=True))
