"""What a plan truly loses: counted on questions made for it, as many as wanted, that no split has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from litestage.comparison.results import estimate
from litestage.data.sources import Menagerie
from litestage.plan import Plan
from litestage.session.workbench import Workbench
from litestage.stages import Question
from litestage.stats import Pairs, agreement, pairs_interval
from litestage.store import ResultStore

TOGETHER = 1000
"""Questions whose traces are in memory at a time."""


class Answered(NamedTuple):
    """By question: the answer, and whether it is right; and the predicted seconds of all together."""

    answers: list[str | None]
    correct: list[bool]
    seconds: float


@dataclass
class FreshQuestions:
    """Answers questions under plans, outside the clock and without the command's store, which they would fill.

    What full depth wrote is kept in memory: a plan's texts are mostly the same, and are verified against it in float32.

    Attributes:
        split: ``fresh``; or ``test`` for tasks that cannot make questions.
    """

    bench: Workbench
    questions: Sequence[Question]
    split: str
    _full: Answered | None = field(default=None, init=False, repr=False)
    _written: ResultStore = field(default_factory=ResultStore, init=False, repr=False)

    @classmethod
    def of(cls, bench: Workbench, count: int) -> FreshQuestions:
        """So many questions that no split has; the test split of a task whose source cannot make any."""
        if isinstance(bench.task.source, Menagerie):
            return cls(bench, bench.task.source.fresh(count), "fresh")
        return cls(bench, bench.task.questions("test")[:count], "test")

    def row(self, plan: Plan) -> dict[str, Any]:
        """The plan's true drop and agreement with their intervals, and its predicted speed-up."""
        at_full_depth = Plan.full(self.bench.pipeline.stage_names)
        full = self._full = self._full or self._answer(at_full_depth, "full depth")
        own = full if plan.hash == at_full_depth.hash else self._answer(plan, "a plan")
        pairs = Pairs.of(full.correct, own.correct)
        return {
            "plan": plan.hash,
            **estimate("true_drop", pairs.drop, pairs_interval(pairs)),
            "lost": pairs.lost,
            "gained": pairs.gained,
            **estimate("true_agreement", *agreement(full.answers, own.answers)),
            "predicted_speedup": full.seconds / own.seconds,
        }

    def _answer(self, plan: Plan, what: str) -> Answered:
        session = self.bench.session.with_store(self._written, keep=self._full is None)
        pipeline = self.bench.pipeline
        costs = self.bench.session.step_costs(stage.compensation for stage in plan.stages.values())
        answers: list[str | None] = []
        correct: list[bool] = []
        seconds = 0.0
        for start in range(0, len(self.questions), TOGETHER):
            asked = self.questions[start : start + TOGETHER]
            label = f"{what} on {len(self.questions)} {self.split} questions, from {start}"
            for trace in session.run(asked, {"plan": plan}, pipeline, progress=label)["plan"]:
                answers.append(trace.answer)
                correct.append(bool(trace.correct))
                seconds += sum(costs.by_stage(plan, trace).values())
        return Answered(answers, correct, seconds)
