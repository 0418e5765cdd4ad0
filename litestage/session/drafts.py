"""Drafts for a plan, made of what it writes on calibration questions and of what a step costs on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from litestage.drafts.lookup import Phrases
from litestage.plan import Plan, SkipSet
from litestage.plan.draft import Draft
from litestage.ranks import from_rank_zero
from litestage.runner.run import run
from litestage.trace import StageTrace

if TYPE_CHECKING:
    from litestage.profile import Importance
    from litestage.session import Session
    from litestage.stages import Pipeline, Question

TIMED = 16
"""Questions over which it is seen whether drafts pay, at most half of all."""


def lookup_drafts(session: Session, plan: Plan, pipeline: Pipeline, questions: Sequence[Question]) -> dict[str, Draft]:
    """By stage, drafts looked up in the prompt and in what ``plan`` writes on calibration ``questions``.

    Without questions they are looked up in the prompt alone.
    """
    least = session.token_share()
    if not questions:
        return dict.fromkeys(pipeline.stage_names, Draft(sources=("prompt",), least=least))
    written = plan.with_drafts({})
    label = "calibration: texts to look up"
    traces = session.run(questions, {"plan": written}, pipeline, progress=label)["plan"]
    sequences = session.contestant(pipeline, written).sequences(questions, traces)
    return {
        stage: Draft(least=least, phrases=Phrases.of(*zip(*of_stage, strict=True)))
        for stage, of_stage in sequences.items()
    }


def self_drafts(plan: Plan, importance: Importance, layers: int, stages: Sequence[str]) -> dict[str, Draft]:
    """By stage, drafts that the model writes without a quarter of its sub-layers more, those of highest cosine.

    None of a stage that skips everything already.
    """
    drafts = {}
    for stage in stages:
        if more := [name for name in importance.ranking() if name not in plan[stage].skip][: layers // 2]:
            drafts[stage] = Draft("skip", length=4, skip=SkipSet.of(more))
    return drafts


def that_pay(
    session: Session, plan: Plan, drafts: Mapping[str, Draft], pipeline: Pipeline, questions: Sequence[Question]
) -> dict[str, Draft]:
    """The drafts of those stages that are faster with them, by the clock, on the ``questions``.

    They have to be others than those that were looked up, of which a draft knows the very text. A stage's mean gain has
    to be more than its standard error; both ways of answering take turns. What a command that was killed has timed is
    taken up, so that the same command makes the same plan.
    """
    if not drafts:
        return {}
    without = plan.with_drafts({})
    contestants = {
        name: session.contestant(pipeline, each) for name, each in (("no", without), ("yes", plan.with_drafts(drafts)))
    }
    label, journal = "whether drafts pay", session.reusing.store
    timed = run(questions, contestants, timed=True, journal=journal, progress=label)

    def faster(index: int) -> bool:
        gains = [
            _seconds(before.stages[index]) - _seconds(after.stages[index])
            for before, after in zip(timed["no"], timed["yes"], strict=True)
        ]
        return len(gains) > 1 and fmean(gains) > stdev(gains) / sqrt(len(gains))

    names = from_rank_zero(lambda: [name for index, name in enumerate(pipeline.stage_names) if faster(index)])
    return {name: drafts[name] for name in names if name in drafts}


def _seconds(stage: StageTrace) -> float:
    return (stage.prefill_s or 0.0) + (stage.decode_s or 0.0)
