"""Ladders: by stage, the plans a search may choose from, one sub-layer more at each rung."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litestage.plan import SkipSet, StagePlan
from litestage.profile import Importance, StepCosts
from litestage.profile.compensation import fit_compensation
from litestage.profile.fidelity import rank_by_fidelity
from litestage.profile.forced import Sequenced, TeacherForced, stage_sequences
from litestage.runner import Contestant
from litestage.search.problem import Ladder
from litestage.stages import Question
from litestage.trace import Trace


def cosine_ladders(importance: Importance, ranking: str, max_budget: int) -> dict[str, Ladder]:
    """The first 0, 1, 2, ... sub-layers by cosine: in one order for all stages (``global``), or in each stage's own."""
    ladders: dict[str, Ladder] = {}
    for stage in importance.cosine:
        order = importance.ranking(stage if ranking == "per_stage" else None)
        ladders[stage] = [StagePlan(skip=SkipSet.of(order[:budget])) for budget in range(max_budget + 1)]
    return ladders


@dataclass(frozen=True)
class FidelityLadders:
    """Ladders by fidelity ranking, with what each rung is estimated to cost.

    Attributes:
        harms: by stage and budget, negative log-likelihood of the full-depth outputs, nats per question.
    """

    ladders: dict[str, Ladder]
    harms: dict[str, list[float]]


def fidelity_ladders(
    full: Contestant,
    questions: Sequence[Question],
    traces: Sequence[Trace],
    costs: StepCosts,
    max_budget: int,
    compensation: str = "none",
    rows: int = 24,
) -> FidelityLadders:
    """Ranks each stage's sub-layers on full depth's own outputs, and fits what stands in for the skipped ones.

    Args:
        full: full depth, whose answers to ``questions`` are ``traces``.
        compensation: form of the stand-ins, or ``none``.
        rows: prompts per stage that the ranking looks at; the stand-ins are fitted on four times as many.
    """
    ladders: dict[str, Ladder] = {}
    harms: dict[str, list[float]] = {}
    for stage, sequences in stage_sequences(full, questions, traces).items():
        engine = full.engine.engine
        saving = costs.sublayer_seconds(context=max(len(prompt) for prompt, _ in sequences))
        ranking = rank_by_fidelity(TeacherForced(engine, _evenly(sequences, rows)), max_budget, saving)
        forced = TeacherForced(engine, _evenly(sequences, 4 * rows))
        plans, nats = [], []
        for budget in range(max_budget + 1):
            skip = SkipSet.of(ranking.order[:budget])
            if compensation == "none" or not budget:
                plans.append(StagePlan(skip=skip))
                nats.append(ranking.nll[budget])
            else:
                tensors, stream = fit_compensation(forced, skip, compensation)
                plans.append(StagePlan(skip=skip, compensation=compensation, tensors=tensors))
                nats.append(forced.nll(stream))
        tokens = sum(len(output) for _, output in sequences) / len(questions)
        ladders[stage], harms[stage] = plans, [value * tokens for value in nats]
    return FidelityLadders(ladders, harms)


def _evenly(sequences: Sequence[Sequenced], count: int) -> list[Sequenced]:
    """``count`` of them, spread over all."""
    step = max(1, len(sequences) // count)
    return list(sequences[::step][:count])
