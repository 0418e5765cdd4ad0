"""What candidates have answered so far, question by question, beside full depth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from litestage.plan import Plan
from litestage.search.race import Standing
from litestage.stages import Pipeline, Question
from litestage.trace import Trace

if TYPE_CHECKING:
    from litestage.session import Session

HARDEST = 24
"""How many of the questions that earlier candidates lost most often a candidate is asked first."""


@dataclass
class Answers:
    """Traces by plan and question, run where they are not known yet.

    Attributes:
        full_depth: the plan that all others are held against.
        on: what a question is lost by: ``accuracy`` (wrong where full depth is right), or ``agreement`` (answered
            otherwise than by full depth).
        traced: the traces so far, by the plan's hash and the question's id.
        lost: how often candidates lost a question.
    """

    session: Session
    pipeline: Pipeline
    full_depth: Plan
    on: str = "accuracy"
    traced: dict[str, dict[str, Trace]] = field(default_factory=dict)
    lost: Counter[str] = field(default_factory=Counter)

    def of(self, plan: Plan, asked: Sequence[Question]) -> list[Trace]:
        """The plan's traces of these questions."""
        known = self.traced.setdefault(plan.hash, {})
        more = [question for question in asked if question.id not in known]
        if more:
            of_full_depth = self.traced.get(self.full_depth.hash, {})
            label = "full depth" if plan.hash == self.full_depth.hash else "a candidate"
            found = self.session.run(more, {"candidate": plan}, self.pipeline, progress=f"{label}'s answers")
            for trace in found["candidate"]:
                known[trace.question_id] = trace
                full = of_full_depth.get(trace.question_id)
                if full is not None and self._is_lost(full, trace):
                    self.lost[trace.question_id] += 1
        return [known[question.id] for question in asked]

    def beside_full_depth(self, plan: Plan, asked: Sequence[Question]) -> list[tuple[Trace, Trace]]:
        """The plan's trace of every question, and full depth's."""
        return list(zip(self.of(plan, asked), self.of(self.full_depth, asked), strict=True))

    def standing(self, plan: Plan, asked: Sequence[Question], on: str | None = None) -> Standing:
        """Questions lost and gained against full depth; for agreement, lost are those answered otherwise."""
        both = self.beside_full_depth(plan, asked)
        if (on or self.on) == "agreement":
            return Standing(sum(trace.answer != full.answer for trace, full in both), 0, len(asked))
        return Standing.of([bool(full.correct) for _, full in both], [bool(trace.correct) for trace, _ in both])

    def at_best(self, so_far: Standing, rest: Sequence[Question]) -> Standing:
        """Where a plan would stand after the other questions too, if it lost none and gained all that it can."""
        wrong = sum(not trace.correct for trace in self.of(self.full_depth, rest)) if self.on == "accuracy" else 0
        return Standing(so_far.lost, so_far.gained + wrong, so_far.n + len(rest))

    def parted(self, plan: Plan, questions: Sequence[Question]) -> tuple[list[Question], list[Question]]:
        """Those of the questions that the plan has been asked, and the others."""
        known = self.traced.get(plan.hash, {})
        return [q for q in questions if q.id in known], [q for q in questions if q.id not in known]

    def hardest(self, questions: Sequence[Question]) -> list[Question]:
        """Those of the questions that earlier candidates lost most often, in the order of ``questions``."""
        hardest = sorted(questions, key=lambda question: -self.lost[question.id])[:HARDEST]
        names = {question.id for question in hardest if self.lost[question.id]}
        return [question for question in questions if question.id in names]

    def _is_lost(self, full: Trace, trace: Trace) -> bool:
        if self.on == "agreement":
            return trace.answer != full.answer
        return bool(full.correct) and not trace.correct
