"""Step costs: seconds of one forward pass as a function of what runs, measured in the engine that will run it.

A pass of ``q`` new tokens for ``r`` rows at context ``c``, with ``A`` attention and ``F`` feed-forward sub-layers,
costs ``f0 + f1 rq + (a0 + a1 rq + a2 rqc) A + (m0 + m1 rq) F`` seconds, one set of coefficients for prefill and one
for decode (they run different kernels). Coefficients are not negative and minimise the relative error.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from litestage.engine import Decoding, Engine, Request
from litestage.engine.engine import COMPACT
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.trace import StageTrace, Trace

_STEPS = 12  # decode steps per measurement
_PROMPTS = (24, 96, 224)  # tokens
_ROWS = (1, 4)
_REPEATS = 3


@dataclass(frozen=True)
class StepCosts:
    """Fitted coefficients (seconds) and how far they were off on masks that were not in the fit.

    Attributes:
        layers: layers of the model.
        prefill, decode: the seven coefficients of each phase, in the order of :func:`_features`.
        held_out_error: median relative error of whole-generation times on held-out masks.
    """

    layers: int
    prefill: tuple[float, ...]
    decode: tuple[float, ...]
    held_out_error: float

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
        active = _active(self.layers, plan.skip)
        at_full = _active(self.layers, SkipSet())
        in_prefill = active if plan.phase == "both" else at_full
        rows = len(tokens)
        prefill = 0.0
        if shared:
            prefill += _dot(self.prefill, _features(1, shared, shared, *in_prefill))
        longest = max(prompts)
        prefill += _dot(self.prefill, _features(rows, longest - shared, longest, *in_prefill))
        decode, running = 0.0, rows
        done = 1  # the first token comes out of the prefill
        for index, end in enumerate(sorted(tokens)):
            going = rows - index
            if going <= COMPACT * running:
                running = going
            steps = end - done
            if steps > 0:
                context = longest + done + steps / 2
                decode += steps * _dot(self.decode, _features(running, 1, context, *active))
                done = end
        return prefill, decode

    def pass_seconds(self, skip: SkipSet, *, prompt: int, context: int) -> tuple[float, float]:
        """Predicted seconds of one row's prefill of ``prompt`` tokens and of one decode step at ``context``."""
        active = _active(self.layers, skip)
        prefill = _dot(self.prefill, _features(1, prompt, prompt, *active))
        return prefill, _dot(self.decode, _features(1, 1, context, *active))

    def sublayer_seconds(self, context: int) -> dict[str, float]:
        """What one attention and one feed-forward sub-layer take in a decode step of one row at ``context``."""
        full = self.pass_seconds(SkipSet(), prompt=1, context=context)[1]
        return {
            "mhsa": max(1e-9, full - self.pass_seconds(SkipSet(mhsa=(0,)), prompt=1, context=context)[1]),
            "ffn": max(1e-9, full - self.pass_seconds(SkipSet(ffn=(0,)), prompt=1, context=context)[1]),
        }

    def seconds(self, plan: Plan, trace: Trace) -> float:
        """Predicted seconds of a whole question, run alone."""
        return sum(sum(self.stage_seconds(plan[stage.name], stage)) for stage in trace.stages)

    def to_dict(self) -> dict[str, Any]:
        return {
            "layers": self.layers,
            "prefill": list(self.prefill),
            "decode": list(self.decode),
            "held_out_error": self.held_out_error,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> StepCosts:
        return cls(raw["layers"], tuple(raw["prefill"]), tuple(raw["decode"]), raw["held_out_error"])


def _active(layers: int, skip: SkipSet) -> tuple[int, int]:
    return layers - len(skip.mhsa), layers - len(skip.ffn)


def _features(rows: int, queries: int, context: float, mhsa: int, ffn: int) -> list[float]:
    tokens = rows * queries
    return [1.0, tokens, mhsa, mhsa * tokens, mhsa * tokens * context, ffn, ffn * tokens]


def _dot(coefficients: Sequence[float], features: Sequence[float]) -> float:
    return sum(c * f for c, f in zip(coefficients, features, strict=True))


@dataclass(frozen=True)
class _Sample:
    skip: SkipSet
    rows: int
    prompt: int
    prefill_s: float
    decode_s: float

    def features(self, layers: int, decode: bool) -> list[float]:
        active = _active(layers, self.skip)
        if decode:
            steps = _STEPS - 1
            return [steps * f for f in _features(self.rows, 1, self.prompt + _STEPS / 2, *active)]
        return _features(self.rows, self.prompt, self.prompt, *active)


def measure_step_costs(engine: Engine, seed: int = 0) -> StepCosts:
    """Times the engine on random prompts under several masks, fits the coefficients and checks them on other masks."""
    layers = engine.decoder.layers
    rng = random.Random(seed)
    names = [sublayer.name for sublayer in engine.decoder.sublayers]
    fitted = [
        SkipSet(),
        SkipSet(mhsa=tuple(range(0, layers, 2))),
        SkipSet(ffn=tuple(range(0, layers, 2))),
        SkipSet.of(rng.sample(names, layers)),
    ]
    held_out = [SkipSet.of(rng.sample(names, max(1, layers * share // 4))) for share in (1, 3)]
    engine = copy.copy(engine)
    engine.eos = (-1,)  # every measurement runs its full length
    samples = _measure(engine, [*fitted, *held_out], rng)
    fit_on = [sample for sample in samples if sample.skip in fitted]
    costs = StepCosts(layers, _fit(fit_on, layers, decode=False), _fit(fit_on, layers, decode=True), 0.0)
    errors = []
    for sample in samples:
        if sample.skip in held_out:
            predicted = _dot(costs.prefill, sample.features(layers, False)) + _dot(
                costs.decode, sample.features(layers, True)
            )
            errors.append(abs(predicted / (sample.prefill_s + sample.decode_s) - 1))
    return StepCosts(costs.layers, costs.prefill, costs.decode, median(errors))


def _measure(engine: Engine, skips: Sequence[SkipSet], rng: random.Random) -> list[_Sample]:
    """Medians of interleaved repeats, so that a machine that slows down slows every mask alike."""
    vocabulary = engine.decoder.config.vocab_size
    cells = [
        (skip, rows, prompt)
        for skip in skips
        for rows in _ROWS
        for prompt in _PROMPTS
        if prompt + _STEPS < engine.decoder.context_length
    ]
    seconds: dict[int, list[tuple[float, float]]] = {index: [] for index in range(len(cells))}
    for repeat in range(_REPEATS + 1):
        for index, (skip, rows, prompt) in enumerate(cells):
            requests = [
                Request(tuple(rng.randrange(vocabulary) for _ in range(prompt)), _STEPS, group=row)
                for row in range(rows)
            ]
            batch = engine.generate(requests, StagePlan(skip=skip), Decoding())
            if repeat:  # the first round warms up
                seconds[index].append((batch.prefill_s, batch.decode_s))
    return [
        _Sample(skip, rows, prompt, median(p for p, _ in seconds[index]), median(d for _, d in seconds[index]))
        for index, (skip, rows, prompt) in enumerate(cells)
    ]


def _fit(samples: Sequence[_Sample], layers: int, decode: bool) -> tuple[float, ...]:
    from scipy.optimize import nnls

    seconds = np.array([sample.decode_s if decode else sample.prefill_s for sample in samples])
    features = np.array([sample.features(layers, decode) for sample in samples]) / seconds[:, None]
    scale = features.max(axis=0)
    solution, _ = nnls(features / scale, np.ones(len(samples)))
    return tuple(float(value) for value in solution / scale)
