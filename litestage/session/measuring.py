"""What methods may measure on a task's calibration split: measured when first asked for, kept in the store if small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from litestage.errors import LiteStageError
from litestage.methods.setting import Extend, Measured
from litestage.profile import Importance
from litestage.profile.forced import TeacherForced, pooled, stage_sequences
from litestage.ranks import from_rank_zero
from litestage.stages import Pipeline, Question

if TYPE_CHECKING:
    from litestage.session import Session

ROWS = 24
"""Sequences per stage that rankings by likelihood, by output and by streams look at."""


class Calibration(Protocol):
    """A task, as far as a session needs it."""

    @property
    def name(self) -> str: ...

    def questions(self, split: str) -> list[Question]: ...


class TaskMeasurements:
    """Measurements of one session's model on a task's calibration questions, through a pipeline.

    Args:
        spec: the plan that is being made, for the error message where the task has no calibration split.
        version: of a method of one's own, whose orders are kept for it alone.
    """

    def __init__(
        self, session: Session, spec: str, task: Calibration | None, pipeline: Pipeline | None, version: str = ""
    ) -> None:
        self._session, self._spec, self._task, self._pipeline = session, spec, task, pipeline
        self._version = version

    def of_version(self, version: str) -> TaskMeasurements:
        return TaskMeasurements(self._session, self._spec, self._task, self._pipeline, version)

    def importance(self) -> Importance:
        questions, pipeline = self._calibration()
        return self._session.importance(questions, pipeline)

    def prices(self) -> dict[str, float]:
        self._calibration()  # what cannot be ranked is told before anything is timed
        session = self._session
        return session.step_costs().generation_prices(session.engine.decoder.context_length)

    def of_forced(self, measure: Callable[[TeacherForced], Measured]) -> Measured:
        questions, pipeline = self._calibration()
        session = self._session
        full, traces = session.full_depth(questions, pipeline)

        def measured() -> Measured:
            sequences = pooled(stage_sequences(full, questions, traces), ROWS)
            return measure(TeacherForced(session.engine, sequences))

        return from_rank_zero(measured)

    def order(self, method: str, count: int, extend: Extend) -> list[int]:
        questions, pipeline = self._calibration()
        kept, key = self._session.kept, self._key(method, questions, pipeline)
        known: list[int] = (kept.known(key) or {}).get("order", [])
        if len(known) < count:
            known = self.of_forced(lambda forced: extend(forced, known, count))
            kept.put(key, {"order": known})
        return known[:count]

    def steps(self, method: str, count: int, measure: Callable[[TeacherForced], Sequence[Measured]]) -> Measured:
        held, key = self._session.held, self._key(method, *self._calibration())
        if len(held.get(key, ())) <= count:
            held[key] = self.of_forced(measure)
        found: Measured = held[key][count]
        return found

    def _key(self, method: str, questions: list[Question], pipeline: Pipeline) -> str:
        asked = [asdict(question) for question in questions]
        method = f"{method}@{self._version}" if self._version else method
        return self._session.kept.key("order", method, asked, pipeline.hash, self._session.chat_template, ROWS)

    def _calibration(self) -> tuple[list[Question], Pipeline]:
        if self._task is None or self._pipeline is None:
            raise LiteStageError(
                f"The plan {self._spec!r} ranks sub-layers on a task's calibration split, and this task has none; "
                "use uniform:K, random:K:SEED or a plan file."
            )
        return self._task.questions("calibration")[: self._session.calibration_questions], self._pipeline
