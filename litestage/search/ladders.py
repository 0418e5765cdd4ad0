"""Ladders: by stage, the plans a search may choose from, each rung faster than the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from litestage.engine import Engine
from litestage.plan import SkipSet, StagePlan
from litestage.plan.skip import SubLayerName
from litestage.profile import Importance, StepCosts
from litestage.profile.compensation import fit_compensation
from litestage.profile.fidelity import rank_by_fidelity
from litestage.profile.forced import Sequenced, TeacherForced, drawn
from litestage.trace import StageTrace

Ladder = Sequence[StagePlan]
"""One stage's plans. The first skips nothing."""
Order = Sequence[SubLayerName]
"""Sub-layers, first skipped first."""

RANKED_TOKENS = 1000
"""How many tokens a ranking looks at: some 80 partial passes over them for 24 sub-layers."""
CHECKED_TOKENS = 2500
"""How many tokens, others, a rung's harm is measured on."""
DRAWS = 2
"""Rankings made of each stage, on different prompts: a greedy order is sensitive to them, and the better one counts."""
HARMFUL = 0.5
"""Rungs that harm more than this (a quarter of the outputs changed or so) are of no use to any bound."""
HARMLESS = 0.005
"""Where a budget harms less than this, smaller budgets are not looked at."""


def budget_ladder(order: Order, max_budget: int) -> Ladder:
    """The first 0, 1, 2, ... sub-layers of the order."""
    return [StagePlan(skip=SkipSet.of(order[:budget])) for budget in range(max_budget + 1)]


def cosine_orders(importance: Importance, ranking: str) -> dict[str, Order]:
    """By cosine: one order for all stages (``global``), or each stage's own (``per_stage``)."""
    return {stage: importance.ranking(stage if ranking == "per_stage" else None) for stage in importance.cosine}


def fidelity_orders(
    engine: Engine, sequences: Sequence[Sequenced], costs: StepCosts, max_budget: int, draws: int = DRAWS
) -> list[Order]:
    """Sub-layers by fidelity (:mod:`litestage.profile.fidelity`), one order for each draw of ``sequences``."""
    saving = costs.sublayer_seconds(context=max(len(prompt) for prompt, _ in sequences))
    return [
        rank_by_fidelity(TeacherForced(engine, _of_tokens(sequences, RANKED_TOKENS, draw)), max_budget, saving).order
        for draw in range(draws)
    ]


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
class PricedLadders:
    """By stage, a ladder and the estimate of each of its rungs."""

    ladders: Mapping[str, Ladder]
    estimates: Mapping[str, Sequence[Estimate]]


def priced_ladder(
    engine: Engine,
    sequences: Sequence[Sequenced],
    traces: Sequence[StageTrace],
    orders: Sequence[Order],
    forms: Sequence[str],
    costs: StepCosts,
    max_budget: int,
) -> tuple[Ladder, list[Estimate]]:
    """Of every order, budget and form of compensation, the plans of one stage that no other beats in harm and time.

    Args:
        sequences: the stage's prompts with full depth's outputs; ``traces`` are some questions' under full depth.
        forms: of compensation, ``none`` among them.

    Returns:
        The plans from full depth to the fastest, and their estimates.
    """
    forced = TeacherForced(engine, _of_tokens(sequences, CHECKED_TOKENS, seed=DRAWS))
    made = [
        (plan, Estimate(harm, fmean(sum(costs.stage_seconds(plan, trace)) for trace in traces)))
        for plan, harm in _useful(forced, orders, forms, max_budget)
    ]
    ladder: list[tuple[StagePlan, Estimate]] = []
    for plan, estimate in sorted(made, key=lambda pair: (pair[1].seconds, pair[1].harm)):
        if not ladder or estimate.harm < ladder[-1][1].harm:
            ladder.append((plan, estimate))
    full = StagePlan()
    rungs = [pair for pair in reversed(ladder) if len(pair[0].skip)]
    seconds = fmean(sum(costs.stage_seconds(full, trace)) for trace in traces)
    return [full, *(plan for plan, _ in rungs)], [Estimate(0.0, seconds), *(estimate for _, estimate in rungs)]


@torch.inference_mode()
def _useful(
    forced: TeacherForced, orders: Sequence[Order], forms: Sequence[str], max_budget: int
) -> list[tuple[StagePlan, float]]:
    """Plans with their harm, from the largest budget that is of use down to one that does no harm."""
    nothing = forced.harm(forced.streams[-1])  # of full depth: it is not certain of its own outputs
    at: dict[int, list[tuple[StagePlan, float]]] = {}

    def least(budget: int) -> float:
        """The harm of the best plan of this budget; harm grows with the budget, nearly."""
        if budget not in at:
            at[budget] = [(plan, harm - nothing) for plan, harm in _of_budget(forced, orders, forms, budget)]
        return min(harm for _, harm in at[budget])

    low, high = 0, max_budget
    while low < high:
        middle = (low + high + 1) // 2
        if least(middle) <= HARMFUL:
            low = middle
        else:
            high = middle - 1
    while low > 0 and least(low) > HARMLESS:
        low -= 1
    return [(plan, harm) for budget in at for plan, harm in at[budget] if harm <= HARMFUL]


def _of_budget(
    forced: TeacherForced, orders: Sequence[Order], forms: Sequence[str], budget: int
) -> Iterator[tuple[StagePlan, float]]:
    """Every order without compensation; the better one of them with it."""
    skips = list(dict.fromkeys(SkipSet.of(order[:budget]) for order in orders))
    bare = [(forced.harm(forced.after(skip)[-1]), index) for index, skip in enumerate(skips)]
    for harm, index in bare:
        yield StagePlan(skip=skips[index]), harm
    skip = skips[min(bare)[1]]
    for form in forms:
        if form != "none":
            tensors, stream = fit_compensation(forced, skip, form)
            yield StagePlan(skip=skip, compensation=form, tensors=tensors), forced.harm(stream)


def _of_tokens(sequences: Sequence[Sequenced], tokens: int, seed: int) -> list[Sequenced]:
    """As many sequences, by lot, as have about that many tokens."""
    mean = fmean(len(prompt) + len(output) for prompt, output in sequences)
    return drawn(sequences, max(8, round(tokens / mean)), seed)
