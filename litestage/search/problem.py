"""What a search is given, and how it looks at one candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from litestage.plan import ExitRule, Plan, StagePlan
from litestage.profile import StepCosts
from litestage.search.race import Standing, rungs
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.trace import Trace

Budgets = Mapping[str, int]
"""Sub-layers to skip, by stage."""

Ladder = Sequence[StagePlan]
"""One stage's plans by budget: the first skips nothing, each next one sub-layer more."""


@dataclass(frozen=True)
class Candidate:
    """One plan that was tried on the calibration questions.

    Attributes:
        budgets: sub-layers skipped per stage.
        accuracy: fraction of the questions tried that it got right.
        accuracy_drop: full depth's fraction of the same questions less that.
        latency_s: predicted seconds per question: prefill + tokens x step cost.
        stage_latency_s: the same by stage.
        tokens: generated tokens per question.
        questions: how many questions it was tried on.
        exit: the exit rule that was on, as plain data, or None.
        verdict: ``chosen``, or why it was not.
    """

    budgets: dict[str, int]
    accuracy: float
    accuracy_drop: float
    latency_s: float
    stage_latency_s: dict[str, float]
    tokens: float
    questions: int
    exit: dict[str, Any] | None = None
    verdict: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The chosen plan and all that was tried on the way.

    Attributes:
        met: whether any plan but full depth met the accuracy bound and was faster.
    """

    plan: Plan
    chosen: Candidate
    full: Candidate
    candidates: list[Candidate]
    met: bool


@dataclass
class SearchProblem:
    """Calibration questions, the plans to choose from, step costs, and the accuracy a plan may lose.

    Attributes:
        ladders: by stage, what it may skip.
        max_accuracy_drop: as a fraction of the calibration questions, against full depth.
        exit: exit rule that is on during the search; None as in the paper, as far as its figures tell.
        origin: what the ladders were made from, for the plan's provenance.
    """

    session: Session
    pipeline: Pipeline
    questions: Sequence[Question]
    ladders: Mapping[str, Ladder]
    costs: StepCosts
    max_accuracy_drop: float
    exit: ExitRule | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    traced: dict[tuple[int, ...], list[Trace]] = field(default_factory=dict)

    def max_budget(self, stage: str) -> int:
        return len(self.ladders[stage]) - 1

    @property
    def nothing(self) -> dict[str, int]:
        """The budgets of full depth."""
        return dict.fromkeys(self.pipeline.stage_names, 0)

    def plan(self, budgets: Budgets) -> Plan:
        """The plan at these budgets."""
        plan = Plan({stage: self.ladders[stage][budget] for stage, budget in budgets.items()})
        return plan if self.exit is None else plan.with_exit(self.exit)

    def evaluate(self, budgets: Budgets, questions: int | None = None) -> Candidate:
        """Answers the first ``questions`` calibration questions (all of them by default) under the plan."""
        count = len(self.questions) if questions is None else questions
        traces = self._traces(budgets, count)
        correct = [bool(trace.correct) for trace in traces]
        full = [bool(trace.correct) for trace in self._traces(self.nothing, count)]
        stage_latency = self._latency(self.plan(budgets), traces)
        return Candidate(
            budgets=dict(budgets),
            accuracy=fmean(correct),
            accuracy_drop=fmean(full) - fmean(correct),
            latency_s=sum(stage_latency.values()),
            stage_latency_s=stage_latency,
            tokens=fmean(trace.tokens for trace in traces),
            questions=count,
        )

    def race(self, budgets: Budgets) -> tuple[Candidate, bool]:
        """Tries the plan on growing parts of the questions; whether it got through all of them within the bound."""
        for count in rungs(len(self.questions)):
            full = [bool(trace.correct) for trace in self._traces(self.nothing, count)]
            standing = Standing.of(full, [bool(trace.correct) for trace in self._traces(budgets, count)])
            if standing.hopeless(self.max_accuracy_drop):
                return self.evaluate(budgets, count), False
        return self.evaluate(budgets), standing.within(self.max_accuracy_drop)

    def _traces(self, budgets: Budgets, count: int) -> list[Trace]:
        key = tuple(budgets[stage] for stage in self.pipeline.stage_names)
        known = self.traced.setdefault(key, [])
        if len(known) < count:
            more = self.questions[len(known) : count]
            known += self.session.run(more, {"candidate": self.plan(budgets)}, self.pipeline)["candidate"]
        return known[:count]

    def _latency(self, plan: Plan, traces: Sequence[Trace]) -> dict[str, float]:
        by_stage: dict[str, list[float]] = {name: [] for name in self.pipeline.stage_names}
        for trace in traces:
            for stage in trace.stages:
                by_stage[stage.name].append(sum(self.costs.stage_seconds(plan[stage.name], stage)))
        return {name: fmean(seconds) for name, seconds in by_stage.items()}

    def provenance(self, strategy: str, chosen: Candidate, full: Candidate) -> dict[str, Any]:
        """Where the plan came from, as it stands in the plan's file."""
        from litestage.environment import environment

        return {
            "method": "litestage",
            "strategy": strategy,
            **self.origin,
            "max_accuracy_drop": self.max_accuracy_drop,
            "calibration_questions": len(self.questions),
            "accuracy": {"full": full.accuracy, "plan": chosen.accuracy},
            "predicted_latency_s": {"full": full.latency_s, "plan": chosen.latency_s},
            "budgets": dict(chosen.budgets),
            "environment": environment(self.session.engine),
        }
