"""What a search is given, and how it looks at one candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from litestage.plan import Certificate, ExitRule, Plan
from litestage.plan.exit import ByStage
from litestage.profile import StepCosts
from litestage.profile.exits import calibrated_exits, cut_share, uncut
from litestage.search.answers import Answers
from litestage.search.candidate import Candidate, Rungs
from litestage.search.ladders import Estimate, Ladder
from litestage.search.race import FEW, Standing, looks, surely_slower
from litestage.stages import Pipeline, Question
from litestage.stats import Bound
from litestage.store import ResultStore
from litestage.trace import Trace

if TYPE_CHECKING:
    from litestage.search.certify import Step
    from litestage.session import Session


@dataclass
class SearchProblem:
    """Calibration questions, the plans to choose from, step costs, and what a plan may lose.

    Attributes:
        ladders: by stage, what it may skip.
        bound: against full depth; its confidence is the certificate's.
        exit: exit rule that is on during the search; None as in the paper, as far as its figures tell.
        reference_exit: exit rule of the full depth that drops are measured against; None: what the exit itself loses
            counts.
        try_exits: whether exit rules are tried on the best plan at the end.
        exit_rules: names of those.
        finalists: how many of the fastest plans are timed by the clock at the end, on ``timed_questions`` questions.
        journal: store that keeps a killed run's timings.
        origin: what the ladders were made from, for the plan's provenance.
        confirm: questions that certify what the search found, and that nothing else looks at; without any, the plan has
            no certificate.
        task: its name, for the certificate.
        prefix_cache: whether the plans that skip something have one.
        estimates: by stage, what each rung of its ladder is expected to do; for strategies that ask for it.
    """

    session: Session
    pipeline: Pipeline
    questions: Sequence[Question]
    ladders: Mapping[str, Ladder]
    costs: StepCosts
    bound: Bound
    exit: ExitRule | None = None
    reference_exit: ExitRule | None = None
    try_exits: bool = False
    exit_rules: Sequence[str] = ("confidence",)
    finalists: int = 0
    timed_questions: int = 8
    journal: ResultStore | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    confirm: Sequence[Question] = ()
    task: str = ""
    prefix_cache: bool = False
    estimates: Mapping[str, Sequence[Estimate]] = field(default_factory=dict)

    def loss(self, candidate: Candidate) -> float:
        """What of a candidate is bounded: its drop, or the share of its answers that are not full depth's."""
        return candidate.accuracy_drop if self.bound.on == "accuracy" else 1 - candidate.agreement

    def kept_by(self, candidate: Candidate) -> bool:
        """Whether a candidate's loss on the questions it was tried on is within the bound."""
        return self.loss(candidate) <= self.bound.most + 1e-12

    def what_it_loses(self, candidate: Candidate) -> str:
        """``+0.8 points``, or ``0.8 % of answers changed``."""
        share = self.loss(candidate) * 100
        return f"{share:+.1f} points" if self.bound.on == "accuracy" else f"{share:.1f} % of answers changed"

    def certificate(self, plan: Plan, step: Step) -> Certificate:
        """The certificate of a plan that passed the test."""
        return Certificate(
            plan=plan.answers_hash,
            model=self.session.loaded.fingerprint,
            pipeline=self.pipeline.hash,
            bound=self.bound.most,
            on=self.bound.on,
            confidence=self.bound.confidence,
            against="full" if self.reference_exit is None else "full+exit",
            task=self.task,
            questions=step.asked,
            lost=step.lost,
            gained=step.gained,
            p=step.p,
        )

    @property
    def nothing(self) -> dict[str, int]:
        """The rungs of full depth."""
        return dict.fromkeys(self.pipeline.stage_names, 0)

    @property
    def exit_alone_counts(self) -> bool:
        """Whether full depth with the exit rule is a plan to be tried, and not what all others are held against."""
        return self.exit is not None and self.exit != self.reference_exit

    def plan(self, rungs: Rungs, rule: ExitRule | None = None) -> Plan:
        """The plan at these rungs, with this exit rule or with none."""
        stages = {stage: self.ladders[stage][rung] for stage, rung in rungs.items()}
        plan = Plan(stages, prefix_cache=self.prefix_cache and any(rungs.values()))
        return plan if rule is None else plan.with_exit(rule)

    @cached_property
    def full_depth(self) -> Plan:
        """The plan that all others are held against."""
        return self.plan(self.nothing, self.reference_exit)

    @cached_property
    def answers(self) -> Answers:
        """What was answered so far."""
        return Answers(self.session, self.pipeline, self.full_depth, self.bound.on)

    def full(self) -> Candidate:
        """What full depth does, which all others are held against."""
        return self.evaluate(self.nothing, self.reference_exit)

    def evaluate(self, rungs: Rungs, rule: ExitRule | None = None) -> Candidate:
        """Answers all calibration questions under the plan."""
        standing = self.answers.standing(self.plan(rungs, rule), self.questions)
        return self._candidate(rungs, rule, self.questions, standing)

    def race(self, rungs: Rungs, rule: ExitRule | None = None) -> tuple[Candidate, bool]:
        """Tries the plan on growing parts of the questions; whether it got through all of them within the bound.

        Within it is the drop's upper limit; the drop itself where what is found has yet to be certified.

        First come questions that earlier candidates lost: a plan that loses too many of those is out for certain,
        however it does on the rest. Then growing parts of all, in their own order, which no candidate has influenced;
        the first few show whether it is slower than full depth.
        """
        plan, bound, sure = self.plan(rungs, rule), self.bound.most, not self.confirm
        hard = self.answers.hardest(self.questions)
        few, *parts = [self.questions[:count] for count in (FEW, *looks(len(self.questions)))]
        for asked in [hard, few, *parts] if hard else [few, *parts]:
            standing = self.answers.standing(plan, asked)
            known, rest = self.answers.parted(plan, self.questions)
            at_best = self.answers.at_best(self.answers.standing(plan, known), rest)
            if not at_best.within(bound, sure):
                return self._candidate(rungs, rule, known, at_best), False
            if asked is few and self._surely_slower(plan, few):
                slower = self._candidate(rungs, rule, few, standing)
                return replace(slower, verdict=f"dropped early: slower than full depth on {len(few)} questions"), False
            if asked is not hard and standing.hopeless(bound):
                return self._candidate(rungs, rule, asked, standing), False
        return self._candidate(rungs, rule, self.questions, standing), standing.within(bound, sure)

    def cut_share(self, rungs: Rungs, rule: ExitRule) -> float:
        """The share of the plan's tokens that the rule would cut, were every stage's prompt as it is."""

        def text(tokens: Sequence[int]) -> str:
            return str(self.session.loaded.tokenizer.decode(tokens, skip_special_tokens=True))

        plan = self.plan(rungs, rule)
        return cut_share(plan, self.answers.of(uncut(plan), self.questions), text)

    def calibrated(self, rungs: Rungs, rule: ExitRule) -> ExitRule:
        """The rule with what it lacks taken from the plan's own texts on the search's questions, stage by stage."""
        if not rule.lacks:
            return rule

        plan = calibrated_exits(
            self.plan(rungs, rule), lambda uncut, count: self.answers.of(uncut, self.questions[:count])
        )
        return ByStage(stages=tuple((name, stage.exit) for name, stage in plan.stages.items() if stage.exit))

    def _candidate(
        self, rungs: Rungs, rule: ExitRule | None, asked: Sequence[Question], standing: Standing
    ) -> Candidate:
        """What the plan did on the questions asked; how it stands may be of all questions, at best."""
        plan = self.plan(rungs, rule)
        both, traces = self.answers.beside_full_depth(plan, asked), self.answers.of(plan, asked)
        full = [bool(trace.correct) for trace in self.answers.of(self.full_depth, self.questions[: standing.n])]
        drop = standing.drop if self.bound.on == "accuracy" else self.answers.standing(plan, asked, "accuracy").drop
        stage_latency = self._latency(plan, traces)
        return Candidate(
            budgets={stage: len(plan[stage].skip) for stage in rungs},
            accuracy=fmean(full) - drop,
            accuracy_drop=drop,
            latency_s=sum(stage_latency.values()),
            stage_latency_s=stage_latency,
            tokens=fmean(trace.tokens for trace in traces),
            questions=len(asked),
            rungs=dict(rungs),
            plan=plan.hash,
            compensation={stage: plan[stage].compensation for stage in rungs},
            accuracy_drop_upper=standing.upper,
            agreement=fmean(trace.answer == full.answer for trace, full in both),
            exit=rule.to_dict() if rule else None,
        )

    def _latency(self, plan: Plan, traces: Sequence[Trace]) -> dict[str, float]:
        """Predicted seconds per question, by stage."""
        each = [self.costs.by_stage(plan, trace) for trace in traces]
        return {name: fmean(of[name] for of in each if name in of) for name in self.pipeline.stage_names}

    def _surely_slower(self, plan: Plan, asked: Sequence[Question]) -> bool:
        """Whether full depth is predicted to take less for these questions, beyond reasonable doubt."""

        def seconds(of: Plan) -> list[float]:
            return [sum(self.costs.by_stage(of, trace).values()) for trace in self.answers.of(of, asked)]

        return surely_slower(seconds(plan), seconds(self.full_depth))

    def provenance(self, strategy: str, chosen: Candidate, full: Candidate) -> dict[str, Any]:
        """Where the plan came from, as it stands in the plan's file."""
        from litestage.environment import environment

        return {
            "method": "litestage",
            "strategy": strategy,
            **self.origin,
            "max_accuracy_drop": self.bound.most,
            "calibration_questions": len(self.questions),
            "confirming_questions": len(self.confirm),
            "accuracy": {"full": full.accuracy, "plan": chosen.accuracy},
            "predicted_latency_s": {"full": full.latency_s, "plan": chosen.latency_s},
            "measured_latency_s": {"full": chosen.measured_full_s, "plan": chosen.measured_s},
            "budgets": dict(chosen.budgets),
            "exit": chosen.exit,
            "against": "full" if self.reference_exit is None else "full+exit",
            "environment": environment(self.session.engine),
        }
