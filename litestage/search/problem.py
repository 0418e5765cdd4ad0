"""What a search is given, and how it looks at one candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from litestage.plan import ExitRule, Plan, SkipSet, StagePlan
from litestage.profile import Importance, StepCosts
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.trace import Trace

Budgets = Mapping[str, int]
"""Sub-layers to skip, by stage."""


@dataclass(frozen=True)
class Candidate:
    """One plan that was tried on the calibration questions.

    Attributes:
        budgets: sub-layers skipped per stage.
        accuracy: fraction of calibration questions right.
        latency_s: predicted seconds per question: prefill + tokens x step cost.
        stage_latency_s: the same by stage.
        tokens: generated tokens per question.
        verdict: ``chosen``, or why it was not.
    """

    budgets: dict[str, int]
    accuracy: float
    latency_s: float
    stage_latency_s: dict[str, float]
    tokens: float
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
    """Calibration questions, rankings and step costs, and the accuracy a plan may lose.

    Attributes:
        max_accuracy_drop: as a fraction of the calibration questions, against full depth.
        max_budget: most sub-layers to skip in a stage.
        ranking: ``global``: one order of sub-layers for all stages; ``per_stage``: one for each.
        exit: exit rule that is on during the search; None as in the paper, as far as its figures tell.
    """

    session: Session
    pipeline: Pipeline
    questions: Sequence[Question]
    importance: Importance
    costs: StepCosts
    max_accuracy_drop: float
    max_budget: int
    ranking: str = "global"
    exit: ExitRule | None = None
    tried: dict[tuple[int, ...], Candidate] = field(default_factory=dict)

    def plan(self, budgets: Budgets) -> Plan:
        """The plan that skips the first ``budgets[stage]`` sub-layers of each stage's ranking."""
        return Plan({stage: StagePlan(skip=self._skip(stage, budgets[stage]), exit=self.exit) for stage in budgets})

    def _skip(self, stage: str, budget: int) -> SkipSet:
        order = self.importance.ranking(stage if self.ranking == "per_stage" else None)
        return SkipSet.of(order[:budget])

    def evaluate(self, budgets: Budgets) -> Candidate:
        """Answers the calibration questions under the plan; what the store knows is not generated again."""
        key = tuple(budgets[stage] for stage in self.pipeline.stage_names)
        if key not in self.tried:
            plan = self.plan(budgets)
            traces = self.session.run(self.questions, {"candidate": plan}, self.pipeline)["candidate"]
            self.tried[key] = self._candidate(budgets, plan, traces)
        return self.tried[key]

    def _candidate(self, budgets: Budgets, plan: Plan, traces: Sequence[Trace]) -> Candidate:
        by_stage: dict[str, list[float]] = {name: [] for name in self.pipeline.stage_names}
        for trace in traces:
            for stage in trace.stages:
                by_stage[stage.name].append(sum(self.costs.stage_seconds(plan[stage.name], stage)))
        stage_latency = {name: fmean(seconds) for name, seconds in by_stage.items()}
        return Candidate(
            budgets=dict(budgets),
            accuracy=fmean(bool(trace.correct) for trace in traces),
            latency_s=sum(stage_latency.values()),
            stage_latency_s=stage_latency,
            tokens=fmean(trace.tokens for trace in traces),
        )

    def provenance(self, strategy: str, chosen: Candidate, full: Candidate) -> dict[str, Any]:
        """Where the plan came from, as it stands in the plan's file."""
        from litestage.environment import environment

        return {
            "method": "litestage",
            "strategy": strategy,
            "ranking": self.ranking,
            "max_accuracy_drop": self.max_accuracy_drop,
            "calibration_questions": len(self.questions),
            "accuracy": {"full": full.accuracy, "plan": chosen.accuracy},
            "predicted_latency_s": {"full": full.latency_s, "plan": chosen.latency_s},
            "budgets": dict(chosen.budgets),
            "environment": environment(self.session.engine.decoder),
        }
