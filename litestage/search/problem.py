"""What a search is given, and how it looks at one candidate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from logging import getLogger
from pathlib import Path
from statistics import fmean
from typing import Any

from litestage.engine.exit import exit_step
from litestage.plan import ExitRule, Plan
from litestage.profile import StepCosts
from litestage.search.ladders import Ladder
from litestage.search.race import Standing, fewest, looks
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.trace import Trace

HARDEST = 24
"""How many of the questions that earlier candidates lost most often a candidate is asked first."""

Rungs = Mapping[str, int]
"""By stage, which plan of its ladder."""


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
        rungs: which plan of each stage's ladder it is.
        plan: the plan's hash.
        compensation: by stage, what stands in for what it skips.
        accuracy_drop_upper: the drop's one-sided 90 % upper limit.
        exit: the exit rule that was on, as plain data, or None.
        measured_s, measured_full_s: by the clock, its and full depth's mean seconds on some questions; finalists only.
        verdict: ``chosen``, or why it was not.
    """

    budgets: dict[str, int]
    accuracy: float
    accuracy_drop: float
    latency_s: float
    stage_latency_s: dict[str, float]
    tokens: float
    questions: int
    rungs: dict[str, int] = field(default_factory=dict)
    plan: str = ""
    compensation: dict[str, str] = field(default_factory=dict)
    accuracy_drop_upper: float = 0.0
    exit: dict[str, Any] | None = None
    measured_s: float | None = None
    measured_full_s: float | None = None
    verdict: str = ""

    @property
    def exit_rule(self) -> ExitRule | None:
        return None if self.exit is None else ExitRule(**self.exit)


@dataclass(frozen=True)
class SearchResult:
    """The chosen plan and all that was tried on the way.

    Attributes:
        met: whether any plan but full depth met the accuracy bound and was faster.
        plans: the frontier's plans by hash, where the search keeps them.
    """

    plan: Plan
    chosen: Candidate
    full: Candidate
    candidates: list[Candidate]
    met: bool
    plans: Mapping[str, Plan] = field(default_factory=dict)


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates tried on all questions that no other beats in both accuracy and predicted latency, fastest first."""
    most = max(candidate.questions for candidate in candidates)
    complete = sorted(
        (c for c in candidates if c.questions == most), key=lambda candidate: (candidate.latency_s, -candidate.accuracy)
    )
    kept: list[Candidate] = []
    for candidate in complete:
        if not kept or candidate.accuracy > kept[-1].accuracy:
            kept.append(candidate)
    return kept


@dataclass
class SearchProblem:
    """Calibration questions, the plans to choose from, step costs, and the accuracy a plan may lose.

    Attributes:
        ladders: by stage, what it may skip.
        max_accuracy_drop: as a fraction of the calibration questions, against full depth.
        exit: exit rule that is on during the search; None as in the paper, as far as its figures tell.
        try_exits: whether exit rules are tried on the best plan at the end.
        finalists: how many of the fastest plans are timed by the clock at the end, on ``timed_questions`` questions.
        journal: folder that keeps a killed run's timings.
        origin: what the ladders were made from, for the plan's provenance.
    """

    session: Session
    pipeline: Pipeline
    questions: Sequence[Question]
    ladders: Mapping[str, Ladder]
    costs: StepCosts
    max_accuracy_drop: float
    exit: ExitRule | None = None
    try_exits: bool = False
    finalists: int = 0
    timed_questions: int = 8
    journal: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    traced: dict[str, dict[str, Trace]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)

    def warn_if_too_few(self) -> None:
        """Says so where no plan can pass a race, however well it does: there are too few questions for the bound."""
        bound, needed = self.max_accuracy_drop, fewest(self.max_accuracy_drop)
        if len(self.questions) < needed:
            more = f"search.calibration to {needed} or more, or " if bound > 0 else ""
            getLogger(__name__).warning(
                "%d calibration questions cannot show that a plan loses at most %g points, not even one that loses "
                "none: full depth will be chosen. Raise %ssearch.max_accuracy_drop.",
                *(len(self.questions), bound * 100, more),
            )

    @property
    def nothing(self) -> dict[str, int]:
        """The rungs of full depth."""
        return dict.fromkeys(self.pipeline.stage_names, 0)

    def plan(self, rungs: Rungs, rule: ExitRule | None = None) -> Plan:
        """The plan at these rungs, with the exit rule, if any."""
        plan = Plan({stage: self.ladders[stage][rung] for stage, rung in rungs.items()})
        rule = rule or self.exit
        return plan if rule is None else plan.with_exit(rule)

    def evaluate(self, rungs: Rungs, questions: int | None = None, rule: ExitRule | None = None) -> Candidate:
        """Answers the first ``questions`` calibration questions (all of them by default) under the plan."""
        asked = self.questions[:questions]
        return self._candidate(rungs, rule, asked, self._standing(rungs, rule, asked))

    def race(self, rungs: Rungs, rule: ExitRule | None = None) -> tuple[Candidate, bool]:
        """Tries the plan on growing parts of the questions; whether it got through all of them within the bound.

        First come questions that earlier candidates lost: a plan that loses too many of those is out for certain,
        however it does on the rest. Then growing parts of all, in their own order, which no candidate has influenced.
        """
        hardest = {name for name, _ in self.lost.most_common(HARDEST)}
        hard = [question for question in self.questions if question.id in hardest]
        for count in (*([0] if hard else []), *looks(len(self.questions))):
            asked = self.questions[:count] if count else hard
            standing = self._standing(rungs, rule, asked)
            best = self._best_case(rungs, rule)
            if best.upper > self.max_accuracy_drop:
                return self._candidate(rungs, rule, self._tried(rungs, rule), best), False
            if count and standing.hopeless(self.max_accuracy_drop):
                return self._candidate(rungs, rule, asked, standing), False
        return self.evaluate(rungs, rule=rule), standing.within(self.max_accuracy_drop)

    def _candidate(
        self, rungs: Rungs, rule: ExitRule | None, asked: Sequence[Question], standing: Standing
    ) -> Candidate:
        """What the plan did on the questions asked; how it stands may be of all questions, at best."""
        plan = self.plan(rungs, rule)
        traces = self._traces(rungs, rule, asked)
        full = [self._right(self.nothing, None, question) for question in self.questions[: standing.tried]]
        stage_latency = self._latency(plan, traces)
        rule = rule or self.exit
        return Candidate(
            budgets={stage: len(plan[stage].skip) for stage in rungs},
            accuracy=fmean(full) - standing.drop,
            accuracy_drop=standing.drop,
            latency_s=sum(stage_latency.values()),
            stage_latency_s=stage_latency,
            tokens=fmean(trace.tokens for trace in traces),
            questions=len(asked),
            rungs=dict(rungs),
            plan=plan.hash,
            compensation={stage: plan[stage].compensation for stage in rungs},
            accuracy_drop_upper=standing.upper,
            exit=asdict(rule) if rule else None,
        )

    def _standing(self, rungs: Rungs, rule: ExitRule | None, asked: Sequence[Question]) -> Standing:
        self._traces(rungs, rule, asked)
        self._traces(self.nothing, None, asked)
        full = [self._right(self.nothing, None, question) for question in asked]
        mine = [self._right(rungs, rule, question) for question in asked]
        return Standing.of(full, mine)

    def _best_case(self, rungs: Rungs, rule: ExitRule | None) -> Standing:
        """Where the plan would stand after all questions if it lost none of those it has not been asked."""
        self._traces(self.nothing, None, self.questions)
        tried = self._tried(rungs, rule)
        names = {question.id for question in tried}
        rest = [question for question in self.questions if question.id not in names]
        so_far = self._standing(rungs, rule, tried)
        winnable = sum(not self._right(self.nothing, None, question) for question in rest)
        return Standing(len(self.questions), so_far.lost, so_far.won + winnable)

    def _tried(self, rungs: Rungs, rule: ExitRule | None) -> list[Question]:
        known = self.traced.get(self.plan(rungs, rule).hash, {})
        return [question for question in self.questions if question.id in known]

    def _right(self, rungs: Rungs, rule: ExitRule | None, question: Question) -> bool:
        return bool(self.traced[self.plan(rungs, rule).hash][question.id].correct)

    def cut_share(self, rungs: Rungs, rule: ExitRule) -> float:
        """The share of the plan's tokens that the rule would cut, were every stage's prompt as it is."""
        rows = [
            row
            for trace in self._traces(rungs, None, self.questions)
            for stage in trace.stages
            for row in stage.confidences or ()
        ]
        left = sum(len(row) if (step := exit_step(rule, row)) is None else step + 1 for row in rows)
        return 1 - left / max(1, sum(map(len, rows)))

    def _traces(self, rungs: Rungs, rule: ExitRule | None, asked: Sequence[Question]) -> list[Trace]:
        """The plan's traces of these questions, run where they are not known yet."""
        plan = self.plan(rungs, rule)
        known = self.traced.setdefault(plan.hash, {})
        more = [question for question in asked if question.id not in known]
        if more:
            for trace in self.session.run(more, {"candidate": plan}, self.pipeline)["candidate"]:
                known[trace.question_id] = trace
                if not trace.correct and self._full_was_right(trace.question_id):
                    self.lost[trace.question_id] += 1
        return [known[question.id] for question in asked]

    def _full_was_right(self, name: str) -> bool:
        trace = self.traced.get(self.plan(self.nothing).hash, {}).get(name)
        return trace is not None and bool(trace.correct)

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
            "measured_latency_s": {"full": chosen.measured_full_s, "plan": chosen.measured_s},
            "budgets": dict(chosen.budgets),
            "environment": environment(self.session.engine),
        }
