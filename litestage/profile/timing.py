"""Measures step costs: times the engine on random prompts under several masks and fits :class:`StepCosts` to it."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from statistics import median

import numpy as np
import torch

from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan
from litestage.profile.costs import StandIn, StepCosts, active, dot, features

_STEPS = 8  # decode steps per measurement
_PROMPTS = (24, 160)  # tokens
_ROWS = (1, 4)
_REPEATS = 3
_ROUNDS = 3  # a measurement whose held-out error is too large is continued, twice at most
TOLERATED_ERROR = 0.10
"""Median relative error on held-out masks above which a measurement counts as disturbed."""

_logger = getLogger(__name__)


@dataclass(frozen=True)
class _Sample:
    plan: StagePlan
    rows: int
    prompt: int
    prefill_s: float
    decode_s: float

    def features(self, layers: int, decode: bool) -> list[float]:
        running = active(layers, self.plan.skip)
        if decode:
            steps = _STEPS - 1
            return [steps * f for f in features(self.rows, 1, self.prompt + _STEPS / 2, *running)]
        return features(self.rows, self.prompt, self.prompt, *running)


def measure_step_costs(engine: Engine, seed: int = 0) -> StepCosts:
    """Times the engine on random prompts under several masks, fits the coefficients and checks them on other masks.

    A measurement that predicts the other masks badly was disturbed: it is continued, and warned of if that does not
    help.
    """
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
    timing = _Timing(engine, [StagePlan(skip=skip) for skip in (*fitted, *held_out)], rng)
    for _ in range(_ROUNDS):
        timing.measure()
        samples = timing.samples()
        fit_on = [sample for sample in samples if sample.plan.skip in fitted]
        costs = StepCosts(layers, _fit(fit_on, layers, decode=False), _fit(fit_on, layers, decode=True), 0.0)
        costs = replace(costs, held_out_error=_error(costs, [s for s in samples if s.plan.skip in held_out]))
        if costs.held_out_error <= TOLERATED_ERROR:
            return costs
    _logger.warning(
        "Step costs are off by %.0f %% (median) on masks that were not in the fit: predicted latencies are rough. "
        "Is other work running on this machine?",
        100 * costs.held_out_error,
    )
    return costs


def measure_stand_in(engine: Engine, form: str, seed: int = 0) -> tuple[StandIn, StandIn]:
    """Seconds of one stand-in of ``form`` in a prefill and in a decode pass: fixed, and per token.

    Half of the attentions are skipped, with a stand-in for each and without, in turns.
    """
    decoder = engine.decoder
    skip = SkipSet(mhsa=tuple(range(0, decoder.layers, 2)))
    shape = {"scale": (), "affine": (2,), "block": (decoder.width,), "linear": (decoder.width + 1,)}
    rank = int(form.partition(":")[2] or 0)
    size = (2 * rank + 1, decoder.width) if rank else (*shape[form], *([decoder.width] if form != "scale" else []))
    tensor = torch.zeros(size, dtype=decoder.dtype)
    bare = StagePlan(skip=skip)
    with_stand_ins = StagePlan(skip=skip, compensation=form, tensors={f"mhsa.{layer}": tensor for layer in skip.mhsa})
    timing = _Timing(engine, [bare, with_stand_ins], random.Random(seed))
    timing.measure()
    samples = timing.samples()
    half = len(samples) // 2
    pairs = list(zip(samples[:half], samples[half:], strict=True))
    prefill = [(a.rows * a.prompt, b.prefill_s - a.prefill_s, a.prefill_s) for a, b in pairs]
    decode = [(a.rows, (b.decode_s - a.decode_s) / (_STEPS - 1), a.decode_s) for a, b in pairs]
    return _line(prefill, len(skip)), _line(decode, len(skip))


def _line(points: Sequence[tuple[float, float, float]], count: int) -> StandIn:
    """Fixed and per-token seconds of each of ``count``, from (tokens, seconds of all, weight's inverse) of a pass."""
    from scipy.optimize import nnls

    weights = np.array([1 / scale for _, _, scale in points])
    features = np.array([[1.0, tokens] for tokens, _, _ in points]) * weights[:, None]
    solution, _ = nnls(features, np.array([seconds for _, seconds, _ in points]) * weights)
    return float(solution[0]) / count, float(solution[1]) / count


def _error(costs: StepCosts, samples: Sequence[_Sample]) -> float:
    """Median relative error of whole-generation times."""
    errors = []
    for sample in samples:
        predicted = dot(costs.prefill, sample.features(costs.layers, False)) + dot(
            costs.decode, sample.features(costs.layers, True)
        )
        errors.append(abs(predicted / (sample.prefill_s + sample.decode_s) - 1))
    return median(errors)


class _Timing:
    """Timings of plans on random prompts, in turns, so that a machine that slows down slows every plan alike."""

    def __init__(self, engine: Engine, plans: Sequence[StagePlan], rng: random.Random) -> None:
        self._engine, self._rng = copy.copy(engine), rng
        self._engine.eos = (-1,)  # every measurement runs its full length
        self._cells = [
            (plan, rows, prompt)
            for plan in plans
            for rows in _ROWS
            for prompt in _PROMPTS
            if prompt + _STEPS < engine.decoder.context_length
        ]
        self._seconds: list[list[tuple[float, float]]] = [[] for _ in self._cells]

    def measure(self) -> None:
        """Times every cell some times more; the first round ever warms up."""
        for _ in range(_REPEATS + (0 if self._seconds[0] else 1)):
            for (plan, rows, prompt), seconds in zip(self._cells, self._seconds, strict=True):
                vocabulary = self._engine.decoder.config.vocab_size
                requests = [
                    Request(tuple(self._rng.randrange(vocabulary) for _ in range(prompt)), _STEPS, group=row)
                    for row in range(rows)
                ]
                batch = self._engine.generate(requests, plan, Decoding())
                seconds.append((batch.prefill_s, batch.decode_s))

    def samples(self) -> list[_Sample]:
        """Every cell's median times, without the warm-up."""
        return [
            _Sample(plan, rows, prompt, median(p for p, _ in seconds[1:]), median(d for _, d in seconds[1:]))
            for (plan, rows, prompt), seconds in zip(self._cells, self._seconds, strict=True)
        ]


def _fit(samples: Sequence[_Sample], layers: int, decode: bool) -> tuple[float, ...]:
    from scipy.optimize import nnls

    seconds = np.array([sample.decode_s if decode else sample.prefill_s for sample in samples])
    features = np.array([sample.features(layers, decode) for sample in samples]) / seconds[:, None]
    scale = features.max(axis=0)
    solution, _ = nnls(features / scale, np.ones(len(samples)))
    return tuple(float(value) for value in solution / scale)
