"""Plans tried on an experiment's questions, each beside full depth question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from litestage.comparison.results import answered_by_the_clock, beside, estimate, sped
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.runner import run
from litestage.session.workbench import Workbench
from litestage.stages import Question
from litestage.stats import accuracy_drop_interval
from litestage.trace import Trace


@dataclass
class Trials:
    """Runs plans on the questions, outside the clock; latency is predicted from token counts and step costs."""

    bench: Workbench
    questions: Sequence[Question]
    _traces: dict[str, list[Trace]] = field(default_factory=dict)

    @classmethod
    def on_test(cls, bench: Workbench) -> Trials:
        """On the test split: nothing is selected on it."""
        return cls(bench, bench.task.questions("test")[: bench.config.questions])

    @property
    def full(self) -> Plan:
        return Plan.full(self.bench.pipeline.stage_names)

    def traces(self, plan: Plan, neighbours: Sequence[Plan] = (), progress: str | None = None) -> list[Trace]:
        """The questions' traces under the plan, from memory where it was tried before.

        Args:
            neighbours: plans that were tried and write mostly the same; what they wrote is verified, not decoded.
        """
        if plan.hash not in self._traces:
            session = self.bench.session
            contestant = session.contestant(self.bench.pipeline, plan, neighbours=neighbours)
            self._traces[plan.hash] = run(
                self.questions,
                {"plan": contestant},
                batch_size=session.batch_size,
                progress=progress or "a plan's answers",
            )["plan"]
        return self._traces[plan.hash]

    def correct(self, plan: Plan) -> list[bool]:
        return [bool(trace.correct) for trace in self.traces(plan)]

    def seconds(self, plan: Plan) -> list[float]:
        """Predicted seconds of every question."""
        return [sum(stages.values()) for stages in self._stage_seconds(plan)]

    def row(self, plan: Plan, against: Plan | None = None) -> dict[str, Any]:
        """Accuracy, tokens and predicted latency of a plan, compared with ``against`` (full depth unless given)."""
        against = against or self.full
        found = self.answers(plan, against)
        by_stage, seconds, reference_seconds = self._stage_seconds(plan), self.seconds(plan), self.seconds(against)
        for name, stage in found["stages"].items():
            stage["predicted_latency_s"] = fmean(stages[name] for stages in by_stage)
        return {
            **found,
            "predicted_latency_s": fmean(seconds),
            **sped(reference_seconds, seconds, "predicted_speedup"),
        }

    def against(self, plan: Plan, other: Plan) -> dict[str, Any]:
        """What :meth:`row` says of drop and speed-up, against another plan than full depth."""
        row = self.row(plan, other)
        return {name: row[name] for name in row if name.startswith(("accuracy_drop", "predicted_speedup"))}

    def behind(self, plan: Plan, other: Plan, name: str) -> dict[str, Any]:
        """How far the plan's accuracy is behind the other's, with its interval, under this name."""
        own, reference = self.correct(plan), self.correct(other)
        return estimate(name, fmean(reference) - fmean(own), accuracy_drop_interval(reference, own))

    def by_the_clock(self, plans: Mapping[str, Plan], count: int) -> dict[str, list[float]]:
        """Measured seconds of the first ``count`` questions, one at a time, plans interleaved.

        Left out are questions that some plan did not take to their end.

        Raises:
            LiteStageError: that leaves none.
        """
        session = self.bench.session
        traces = session.run(
            self.questions[:count],
            plans,
            self.bench.pipeline,
            timed=True,
            journal=session.reusing.store,
            progress="latency, one at a time",
        )
        answered = answered_by_the_clock(traces.values())
        if not answered:
            raise LiteStageError(
                f"None of the {min(count, len(self.questions))} timed questions fits the context in every stage of "
                "every plan, so that there is no time to tell; ask shorter ones, or lower max_new_tokens."
            )
        return {
            name: [trace.latency_s or 0.0 for trace in rows if trace.question_id in answered]
            for name, rows in traces.items()
        }

    def answers(self, plan: Plan, against: Plan | None = None) -> dict[str, Any]:
        """The part of :meth:`row` that no clock has any part in: accuracy, answers and tokens."""
        against = against or self.full
        traces, names = self.traces(plan), self.bench.pipeline.stage_names
        return {
            "plan": plan.hash,
            **beside(self.traces(against), traces),
            "stages": {
                name: {
                    "skipped": {"mhsa": len(plan[name].skip.mhsa), "ffn": len(plan[name].skip.ffn)},
                    "tokens": fmean(sum(trace.stages[index].tokens) for trace in traces),
                    "cut": fmean(stop == "exit" for trace in traces for stop in trace.stages[index].stops),
                }
                for index, name in enumerate(names)
            },
        }

    def _stage_seconds(self, plan: Plan) -> list[dict[str, float]]:
        costs = self.bench.session.step_costs(stage.compensation for stage in plan.stages.values())
        return [costs.by_stage(plan, trace) for trace in self.traces(plan)]
