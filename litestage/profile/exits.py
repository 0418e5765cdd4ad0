"""Exit rules on texts that were written uncut: what they would cut, and what they take from a stage's own texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import zip_longest

from litestage.plan import Plan
from litestage.plan.exit import Steps, exit_step
from litestage.trace import StageTrace, Trace

WARM_UP = 16
"""Calibration questions whose texts are looked at, as many as DeepConf takes."""


def calibrated_exits(plan: Plan, answer: Callable[[Plan, int], Sequence[Trace]]) -> Plan:
    """The plan with what its exit rules lack, by stage, from its own texts uncut; itself where nothing lacks.

    Args:
        answer: answers the first so many calibration questions under a plan.
    """
    lacking = {name: stage.exit for name, stage in plan.stages.items() if stage.exit is not None and stage.exit.lacks}
    if not lacking:
        return plan
    written: dict[str, list[Steps]] = {name: [] for name in lacking}
    for trace in answer(uncut(plan), WARM_UP):
        for stage in trace.stages:
            if stage.name in written:
                written[stage.name] += [Steps(signals=signals) for signals in stage.signals]
    rules = {name: rule.calibrated(written[name]) for name, rule in lacking.items()}
    stages = {name: replace(stage, exit=rules.get(name, stage.exit)) for name, stage in plan.stages.items()}
    return replace(plan, stages=stages, certificate=None)


def uncut(plan: Plan) -> Plan:
    """The plan with exit rules that watch and never end a stage."""
    return Plan({name: replace(stage, exit=stage.exit and stage.exit.uncut) for name, stage in plan.stages.items()})


def cut_share(plan: Plan, traces: Sequence[Trace], text: Callable[[Sequence[int]], str]) -> float:
    """The share of the tokens of uncut traces that the plan's exit rules would cut, were every prompt as it is.

    Args:
        text: of tokens.
    """
    left = written = 0
    for trace in traces:
        for stage in trace.stages:
            rule = plan[stage.name].exit
            for steps in _steps(stage, text):
                count = max(len(steps.tokens), len(steps.confidences))
                step = exit_step(rule, steps) if rule else None
                left += count if step is None else step + 1
                written += count
    return 1 - left / max(1, written)


def _steps(stage: StageTrace, text: Callable[[Sequence[int]], str]) -> list[Steps]:
    """What an exit rule sees of a stage's rows."""
    rows = zip_longest(stage.token_ids, stage.confidences or (), stage.signals)
    return [Steps(tokens or (), confidences or (), signals or {}, text) for tokens, confidences, signals in rows]
