"""Exit rules that take something from a stage's own texts: calibrated stage by stage, on calibration questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from litestage.plan import Plan
from litestage.plan.exit import Steps
from litestage.stages import Question
from litestage.trace import Trace

WARM_UP = 16
"""Calibration questions whose texts are looked at, as many as DeepConf takes."""
Answer = Callable[[Sequence[Question], Plan], Sequence[Trace]]


def calibrated_exits(plan: Plan, questions: Callable[[], Sequence[Question]], answer: Answer) -> Plan:
    """The plan with what its exit rules lack, by stage, from its own texts uncut; itself where nothing lacks.

    Args:
        questions: the calibration questions; asked for where they are needed.
        answer: answers questions under a plan.
    """
    lacking = {name: stage.exit for name, stage in plan.stages.items() if stage.exit is not None and stage.exit.lacks}
    if not lacking:
        return plan
    uncut = {
        name: replace(stage, exit=stage.exit.uncut if name in lacking and stage.exit else None)
        for name, stage in plan.stages.items()
    }
    traces = answer(questions()[:WARM_UP], replace(plan, stages=uncut, certificate=None))
    written: dict[str, list[Steps]] = {name: [] for name in lacking}
    for trace in traces:
        for stage in trace.stages:
            if stage.name in written:
                written[stage.name] += [Steps(signals=signals) for signals in stage.signals]
    rules = {name: rule.calibrated(written[name]) for name, rule in lacking.items()}
    stages = {name: replace(stage, exit=rules.get(name, stage.exit)) for name, stage in plan.stages.items()}
    return replace(plan, stages=stages, certificate=None)
