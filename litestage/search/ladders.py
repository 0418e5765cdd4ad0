"""Ladders: by stage, the plans a search may choose from, each rung faster than the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import fmean

import torch
from torch import Tensor

from litestage.engine import Engine
from litestage.plan import SkipSet, StagePlan
from litestage.plan.skip import SubLayerName
from litestage.profile import StepCosts
from litestage.profile.compensation import fit_compensation
from litestage.profile.fidelity import Ranking, rank_by_fidelity
from litestage.profile.forced import Sequenced, TeacherForced, about
from litestage.progress import Advance
from litestage.trace import StageTrace

Ladder = Sequence[StagePlan]
"""One stage's plans. The first skips nothing."""
Order = Sequence[SubLayerName]
"""Sub-layers, first skipped first."""

RANKED_TOKENS = 1000
"""How many tokens a ranking looks at, in prompts and outputs."""
PARTS = (1 / 8, 1 / 4, 1 / 2, 1.0)
"""Every sub-layer is looked at on the first share of the sequences; on the next, what may still be the best."""
FEWEST = 3
"""How many sequences it takes to tell one sub-layer from another, roughly."""
CHECKED_TOKENS = 2500
"""How many tokens, others, a rung's harm is measured on."""
HARMFUL = 0.5
"""Rungs that harm more than this (a quarter of the outputs changed or so) are of no use to any bound."""
HARMLESS = 0.005
"""Where a budget harms less than this, smaller budgets are not looked at."""


def budget_ladder(order: Order, max_budget: int, phase: str = "both") -> Ladder:
    """The first 0, 1, 2, ... sub-layers of the order."""
    some = [StagePlan(SkipSet.of(order[:budget]), phase) for budget in range(1, max_budget + 1)]
    return [StagePlan(), *some]


def fidelity_ranking(
    engine: Engine, sequences: Sequence[Sequenced], costs: StepCosts, max_budget: int, advance: Advance
) -> Ranking:
    """Sub-layers by fidelity, on some of ``sequences`` drawn by lot; ``advance`` is told of every one ranked."""
    saving = costs.sublayer_seconds(context=max(len(prompt) for prompt, _ in sequences))
    rows = about(sequences, RANKED_TOKENS, seed=0)
    ends = [0, *(max(FEWEST, round(share * len(rows))) for share in PARTS)]
    parts = [TeacherForced(engine, part) for first, end in pairwise(ends) if (part := rows[first:end])]
    return rank_by_fidelity(parts, max_budget, saving, 1.5 * HARMFUL, advance)


@dataclass(frozen=True)
class Estimate:
    """What a rung is expected to do, without having generated anything.

    Attributes:
        harm: see :meth:`litestage.profile.forced.TeacherForced.harm`.
        seconds: predicted for the stage, per question, where it writes what full depth writes.
    """

    harm: float
    seconds: float


@dataclass(frozen=True)
class Ladders:
    """By stage, a ladder, and the estimate of each of its rungs where a strategy goes by that."""

    plans: Mapping[str, Ladder]
    estimates: Mapping[str, Sequence[Estimate]] = field(default_factory=dict)


def priced_ladder(
    engine: Engine,
    sequences: Sequence[Sequenced],
    traces: Sequence[StageTrace],
    order: Order,
    forms: Sequence[str],
    costs: StepCosts,
    max_budget: int,
    harm: Sequence[float] = (),
    advance: Advance = lambda budgets: None,
    phase: str = "both",
) -> tuple[Ladder, list[Estimate]]:
    """Of every budget and form of compensation, the plans of one stage that no other beats in harm and time.

    Args:
        sequences: the stage's prompts with full depth's outputs; ``traces`` are some questions' under full depth.
        forms: of compensation, ``none`` among them.
        harm: what the order's budgets 0, 1, 2, ... did to other sequences, where that is known: where to begin.
        advance: told of every budget looked at.
        phase: in which the plans skip. Harm is of skipping in both: with ``decode`` it is more than they do.

    Returns:
        The plans from full depth to the fastest, and their estimates.
    """

    def estimate(plan: StagePlan, harm: float) -> Estimate:
        return Estimate(harm, fmean(sum(costs.stage_seconds(plan, trace)) for trace in traces))

    forced = TeacherForced(engine, about(sequences, CHECKED_TOKENS, seed=1))
    begin = max((at for at, value in enumerate(harm[: max_budget + 1]) if value - harm[0] <= HARMLESS), default=0)
    plans = [
        (replace(plan, phase=phase) if len(plan.skip) else plan, harm)
        for plan, harm in _useful(forced, order, forms, max_budget, begin, advance)
    ]
    made = [(plan, estimate(plan, harm)) for plan, harm in plans]
    ladder: list[tuple[StagePlan, Estimate]] = []
    for rung in sorted(made, key=lambda pair: (pair[1].seconds, pair[1].harm)):
        if not ladder or rung[1].harm < ladder[-1][1].harm:
            ladder.append(rung)
    full = StagePlan()
    rungs = [(full, estimate(full, 0.0)), *(rung for rung in reversed(ladder) if len(rung[0].skip))]
    return [plan for plan, _ in rungs], [expected for _, expected in rungs]


@torch.inference_mode()
def _useful(
    forced: TeacherForced, order: Order, forms: Sequence[str], max_budget: int, begin: int, advance: Advance
) -> list[tuple[StagePlan, float]]:
    """Plans with their rise in harm over full depth's, from a budget that does none up to the largest of use.

    From ``begin`` one sub-layer at a time, down and then up: of a neighbour only what follows that sub-layer is run.
    """
    nothing = forced.harm(forced.streams[-1])  # full depth is not certain of its own outputs
    place = {name: index for index, name in enumerate(forced.decoder.sublayers)}
    found: list[tuple[StagePlan, float]] = []

    def at(budget: int, streams: Sequence[Tensor], changed: int) -> tuple[list[Tensor], float]:
        """The streams of a budget, the same as ``streams`` before sub-layer ``changed``; the least harm there."""
        skip = SkipSet.of(order[:budget])
        after = [*streams[:changed], *forced.after(skip, changed, streams)]
        plans = [(plan, harm - nothing) for plan, harm in _of_skip(forced, skip, after[-1], forms)]
        found.extend(plans)
        advance(1)
        return after, min(harm for _, harm in plans)

    first, least = at(begin, forced.streams, min((place[name] for name in order[:begin]), default=len(place)))
    budget, streams, harm = begin, first, least
    while budget > 0 and harm > HARMLESS:
        budget -= 1
        streams, harm = at(budget, streams, place[order[budget]])
    budget, streams, harm = begin, first, least
    while budget < min(max_budget, len(order)) and harm <= HARMFUL:
        streams, harm = at(budget + 1, streams, place[order[budget]])
        budget += 1
    return [(plan, harm) for plan, harm in found if harm <= HARMFUL]


def _of_skip(
    forced: TeacherForced, skip: SkipSet, stream: Tensor, forms: Sequence[str]
) -> Iterator[tuple[StagePlan, float]]:
    """A skip set without compensation, which leads to the last ``stream``, and with every form."""
    yield StagePlan(skip=skip), forced.harm(stream)
    for form in forms if len(skip) else ():
        if form != "none":
            tensors, compensated = fit_compensation(forced, skip, form)
            yield StagePlan(skip=skip, compensation=form, tensors=tensors), forced.harm(compensated)
