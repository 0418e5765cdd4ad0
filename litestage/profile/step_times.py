"""Measures step costs: times the engine on random prompts under several masks and fits :class:`StepCosts` to it."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from logging import getLogger
from statistics import median

import numpy as np
import torch

from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan
from litestage.plan.stage import stand_ins
from litestage.profile.costs import StandIn, StandInCosts, StepCosts, active, dot, features
from litestage.progress import bar
from litestage.stats.bootstrap import interval_of
from litestage.trace import StageTrace

_STEPS = 8  # decode steps per measurement
_PROMPTS = (24, 160)  # tokens
_ROWS = (1, 4)
_SMALL = 160  # tokens of all rows' prompts; what has more is most of the work
_UNEQUAL = (8, 5, 3, 2)  # new tokens of rows that share three quarters of their prompt, in the check
_REPEATS = 3
_PAIRS = 9  # repeats of a price, which is a small difference
_SHARE_REPEATS = 5
_ROUNDS = 3  # a measurement whose held-out error is too large is continued, twice at most
_RESAMPLES = 1000
BUDGET_S = 15.0
"""Seconds that a measurement should take: on a model so slow that it would take longer, fewer shapes and repeats."""
TOLERATED_ERROR = 0.10
"""Median relative error on held-out masks above which a measurement counts as disturbed."""

_logger = getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Cell:
    """What is timed: so many rows with a prompt of so many tokens, one after the other in lanes of their own; or, with
    ``tokens``, as one question's options: that many new tokens each, after a prompt whose beginning they share."""

    plan: StagePlan
    rows: int
    prompt: int
    tokens: tuple[int, ...] = ()

    @property
    def shared(self) -> int:
        return self.prompt * 3 // 4 if self.tokens else 0

    @property
    def size(self) -> int:
        """Tokens of all prompts."""
        return self.rows * self.prompt

    def features(self, layers: int, decode: bool) -> list[float]:
        running = active(layers, self.plan.skip)
        if decode:
            steps = _STEPS - 1
            return [steps * f for f in features(self.rows, 1, self.prompt + _STEPS / 2, *running)]
        return features(self.rows, self.prompt, self.prompt, *running)

    def predicted(self, costs: StepCosts) -> float:
        """Seconds of prefill and decode together."""
        if self.tokens:
            texts = ("",) * self.rows
            prompts = (self.prompt,) * self.rows
            return sum(costs.stage_seconds(self.plan, StageTrace("", prompts, self.shared, self.tokens, texts, texts)))
        prefill = dot(costs.prefill, self.features(costs.layers, decode=False))
        return prefill + dot(costs.decode, self.features(costs.layers, decode=True))

    def requests(self, rng: random.Random, vocabulary: int) -> list[Request]:
        def some(count: int) -> tuple[int, ...]:
            return tuple(rng.randrange(vocabulary) for _ in range(count))

        if self.tokens:
            beginning = some(self.shared)
            return [Request((*beginning, *some(self.prompt - self.shared)), count) for count in self.tokens]
        return [Request(some(self.prompt), _STEPS, group=row) for row in range(self.rows)]


@dataclass(frozen=True)
class _Sample:
    cell: _Cell
    prefill_s: float
    decode_s: float

    @property
    def whole_s(self) -> float:
        return self.prefill_s + self.decode_s


def measure_step_costs(engine: Engine) -> StepCosts:
    """Times the engine on random prompts under several masks, fits the coefficients and checks them on other masks.

    It takes about `BUDGET_S` or less, twice that where the check fails: a slow model is timed on the smaller shapes,
    and once, which is enough, as its passes are long beside what disturbs them. The check has rows of unequal
    lengths that share a prompt's beginning, as a question's options do. A measurement that predicts the other masks
    badly was disturbed: it is continued, and warned of if that does not help.
    """
    layers = engine.decoder.layers
    rng = random.Random(0)
    names = engine.decoder.sublayers
    fitted = [
        SkipSet(),
        SkipSet(mhsa=tuple(range(0, layers, 2))),
        SkipSet(ffn=tuple(range(0, layers, 2))),
        SkipSet.of(rng.sample(names, layers)),
    ]
    held_out = [SkipSet.of(rng.sample(names, max(1, layers * share // 4))) for share in (1, 3)]
    masks, others = ([StagePlan(skip=skip) for skip in of] for of in (fitted, held_out))
    timing = _Timing(engine, rng)
    cells = _equal(engine, (*masks, *others)) + [
        _Cell(plan, len(_UNEQUAL), prompt, _UNEQUAL) for plan in others for prompt in _PROMPTS if _fits(engine, prompt)
    ]
    path = "host" if engine.why_not_static(StagePlan()) else "static"
    for _ in timing.rounds("what a step costs on this machine", cells, _REPEATS):
        samples = timing.samples()
        fit_on = [sample for sample in samples if sample.cell.plan.skip in fitted]
        coefficients = _fit(fit_on, layers, decode=False), _fit(fit_on, layers, decode=True)
        costs = StepCosts(layers, *coefficients, 0.0, path=path)
        check = [sample for sample in samples if sample.cell.plan.skip in held_out]
        parts = [[s for s in check if bool(s.cell.tokens) is options] for options in (False, True)]
        costs = replace(costs, held_out_error=max(_error(costs, part) for part in parts))
        if costs.held_out_error <= TOLERATED_ERROR:
            return costs
    _logger.warning(
        "Step costs are off by %.0f %% (median) on masks that were not in the fit: predicted latencies are rough. "
        "Is other work running on this machine?",
        100 * costs.held_out_error,
    )
    return costs


def measure_token_share(engine: Engine) -> float:
    """What one more token costs in a decode step of one lane, as a share of that step: from 0.02 to 0.5.

    Drafts ask nothing else of a machine, and this takes a moment where step costs take longer.
    """
    one, two = _Cell(StagePlan(), 1, _PROMPTS[0]), _Cell(StagePlan(), 2, _PROMPTS[0], (_STEPS, _STEPS))
    timing = _Timing(engine, random.Random(0))
    next(timing.rounds("what one more token costs in a step", [one, two], _SHARE_REPEATS, least=_REPEATS))
    one_s, two_s = (timing.sample(cell).decode_s for cell in (one, two))
    return round(min(0.5, max(0.02, (two_s - one_s) / one_s)), 3)


def measure_stand_in(engine: Engine, form: str) -> StandInCosts:
    """Seconds of one stand-in of ``form`` in a prefill and in a decode pass, with the error of that.

    Half of the attentions are skipped, with stand-ins and without, in turns, and the price is of the differences pair
    by pair: the median of each shape's, its interval from a bootstrap over the repeats. It is checked on another mask.
    A price that cannot be told from 0, or that predicts the other mask badly, is warned of.
    """
    layers, rng = engine.decoder.layers, random.Random(0)
    names = engine.decoder.sublayers
    skips = [SkipSet(mhsa=tuple(range(0, layers, 2))), SkipSet.of(rng.sample(names, layers))]
    pairs = [(StagePlan(skip=skip), _with_stand_ins(engine, skip, form)) for skip in skips]
    fitted, held_out = (
        [cell for both in zip(*(_equal(engine, [p]) for p in pair), strict=True) for cell in both] for pair in pairs
    )
    timing = _Timing(engine, rng)
    for _ in timing.rounds(f"what a stand-in costs, {form}", [*fitted, *held_out], _PAIRS, least=_REPEATS):
        prices = _prices(timing, timing.chosen(fitted), len(stand_ins(skips[0], form)))
        error = _price_error(timing, timing.chosen(held_out), prices, len(stand_ins(skips[1], form)))
        prices = replace(prices, held_out_error=error)
        if error <= TOLERATED_ERROR:
            break
    else:
        _logger.warning(
            "The price of a %r stand-in is off by %.0f %% of a generation (median) on a mask that was not in the fit: "
            "predicted latencies of plans with it are rough. Is other work running on this machine?",
            form,
            100 * error,
        )
    if not prices.measurable and prices.decode_step_ci95 is not None:
        low, high = (1e6 * seconds for seconds in prices.decode_step_ci95)
        _logger.warning(
            "The price of a %r stand-in cannot be told from 0 here: %.1f us in a decode step, 95 %% interval "
            "%.1f to %.1f.",
            form,
            1e6 * sum(prices.decode),
            low,
            high,
        )
    return prices


def _with_stand_ins(engine: Engine, skip: SkipSet, form: str) -> StagePlan:
    """A plan whose stand-ins, of zeros, take as long as any."""
    width = engine.decoder.width
    shape = {"scale": (), "affine": (2, width), "block": (width, width), "linear": (width + 1, width)}
    rank = int(form.partition(":")[2] or 0)
    size = (2 * rank + 1, width) if rank else shape[form]
    tensors = {
        f"{kind}.{layer}": torch.zeros(size, dtype=engine.decoder.dtype) for kind, layer in stand_ins(skip, form)
    }
    return StagePlan(skip=skip, compensation=form, tensors=tensors)


def _prices(timing: _Timing, cells: Sequence[_Cell], count: int) -> StandInCosts:
    """From cells in pairs, without stand-ins and with so many."""
    bare, added = cells[::2], cells[1::2]
    seconds = np.array([[timing.seconds[cell] for cell in of] for of in (bare, added)])  # [2, pairs, repeats, phases]
    differences, scale = seconds[1] - seconds[0], np.median(seconds[0], axis=1)  # [pairs, repeats, 2], [pairs, 2]
    tokens = np.array([[cell.size, cell.rows] for cell in bare], dtype=float)  # of a pass of each phase
    passes = np.array([1, _STEPS - 1])
    prefill, decode = (
        _line(tokens[:, phase], np.median(differences[:, :, phase], axis=1) / passes[phase], scale[:, phase], count)
        for phase in (0, 1)
    )
    rng, repeats = np.random.default_rng(0), differences.shape[1]
    drawn = rng.integers(0, repeats, (_RESAMPLES, len(bare), repeats))
    resampled = np.median(np.take_along_axis(differences[None, :, :, 1], drawn, axis=2), axis=2)  # [resamples, pairs]
    weights = 1 / scale[:, 1]
    design = np.stack([np.ones(len(bare)), tokens[:, 1]], axis=1) * weights[:, None]
    lines = np.linalg.lstsq(design, (resampled * weights).T / passes[1], rcond=None)[0]  # unlike a price, below 0 too
    return StandInCosts(prefill, decode, interval_of(lines.sum(axis=0) / count))


def _price_error(timing: _Timing, cells: Sequence[_Cell], prices: StandInCosts, count: int) -> float:
    """Median relative error of whole times with ``count`` stand-ins, predicted from the times without them."""
    errors = []
    for bare, added in zip(cells[::2], cells[1::2], strict=True):
        without, measured = (timing.sample(cell).whole_s for cell in (bare, added))
        prefill = prices.prefill[0] + prices.prefill[1] * bare.size
        decode = (_STEPS - 1) * (prices.decode[0] + prices.decode[1] * bare.rows)
        errors.append(abs((without + count * (prefill + decode)) / measured - 1))
    return median(errors)


def _line(tokens: np.ndarray, seconds: np.ndarray, scale: np.ndarray, count: int) -> StandIn:  # type: ignore[type-arg]
    """Fixed and per-token seconds of each of ``count``, from a pass's tokens, seconds of all and weight's inverse."""
    from scipy.optimize import nnls

    features = np.stack([np.ones(len(tokens)), tokens], axis=1) / scale[:, None]
    solution, _ = nnls(features, seconds / scale)
    return float(solution[0]) / count, float(solution[1]) / count


def _error(costs: StepCosts, samples: Sequence[_Sample]) -> float:
    """Median relative error of whole-generation times."""
    return median(abs(sample.cell.predicted(costs) / sample.whole_s - 1) for sample in samples)


def _fits(engine: Engine, prompt: int) -> bool:
    return prompt + _STEPS < engine.decoder.context_length


def _equal(engine: Engine, plans: Sequence[StagePlan]) -> list[_Cell]:
    shapes = [(rows, prompt) for prompt in _PROMPTS for rows in _ROWS if _fits(engine, prompt)]
    return [_Cell(plan, *shape) for plan in plans for shape in shapes]


class _Timing:
    """Timings of cells on random prompts, in turns, so that a machine that slows down slows every plan alike.

    Attributes:
        seconds: by cell that is timed, its prefill and decode seconds by repeat.
    """

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._engine, self._rng = copy.copy(engine), rng
        self._engine.eos = (-1,)  # every measurement runs its full length
        self.seconds: dict[_Cell, list[tuple[float, float]]] = {}
        self._spent_s = 0.0

    def rounds(self, label: str, cells: Sequence[_Cell], repeats: int, least: int = 1) -> Iterator[None]:
        """Times every cell so often, in turns, forth and back, and yields for a look; `_ROUNDS` times at most.

        Args:
            cells: those that are too much work for the budget are left out.
            least: so often in any case, where the budget is too small for all repeats.
        """
        cells = self._affordable(cells, repeats)
        self.seconds = {cell: [] for cell in cells}
        with bar(label, repeats * len(cells), guessed=True) as advance:
            for number in range(1, _ROUNDS + 1):
                for repeat in range(repeats):
                    if repeat >= least and self._spent_s > number * BUDGET_S:
                        break
                    for cell in cells[:: -1 if repeat % 2 else 1]:
                        self.seconds[cell].append(self._generate(cell))
                        advance(1)
                yield
                if self._spent_s > 2 * BUDGET_S:
                    return

    def chosen(self, cells: Iterable[_Cell]) -> list[_Cell]:
        """Those of the cells that are timed."""
        return [cell for cell in cells if cell in self.seconds]

    def sample(self, cell: _Cell) -> _Sample:
        """A cell's median times."""
        return _Sample(cell, *(median(of) for of in zip(*self.seconds[cell], strict=True)))

    def samples(self) -> list[_Sample]:
        return [self.sample(cell) for cell in self.seconds]

    def _affordable(self, cells: Sequence[_Cell], repeats: int) -> list[_Cell]:
        """All cells, or those of at most `_SMALL` tokens, as the first plan's of these, run once, foretell.

        That warms the engine up; but where it compiles or records what a plan runs, each cell has to be.
        """
        small = [cell for cell in cells if cell.size <= _SMALL]
        for cell in small:
            if cell.plan is small[0].plan:
                per_token_s = sum(self._generate(cell)) / cell.size
        chosen = small if repeats * per_token_s * sum(cell.size for cell in cells) > BUDGET_S else list(cells)
        if self._engine.why_not_static(StagePlan()) is None:
            for cell in chosen:
                self._generate(cell)
        self._spent_s = 0.0
        return chosen

    def _generate(self, cell: _Cell) -> tuple[float, float]:
        requests = cell.requests(self._rng, self._engine.decoder.config.vocab_size)
        batch = self._engine.generate(requests, cell.plan, Decoding())
        self._spent_s += batch.prefill_s + batch.decode_s
        return batch.prefill_s, batch.decode_s


def _fit(samples: Sequence[_Sample], layers: int, decode: bool) -> tuple[float, ...]:
    from scipy.optimize import nnls

    seconds = np.array([sample.decode_s if decode else sample.prefill_s for sample in samples])
    features = np.array([sample.cell.features(layers, decode) for sample in samples]) / seconds[:, None]
    scale = features.max(axis=0)
    solution, _ = nnls(features / scale, np.ones(len(samples)))
    return tuple(float(value) for value in solution / scale)
