"""Keeps every finished batch of a run in the journal: the run, killed and started again, goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import BasePredictionWriter

from litestage.runner.contestant import Contestant
from litestage.stages import Question
from litestage.store.journal import RunJournal
from litestage.trace import Trace

Traces = dict[str, list[Trace]]


class Journal(BasePredictionWriter):
    """Collects every batch's traces, and keeps them where a later run finds them.

    Args:
        kept: where; None: only here.

    Attributes:
        finished: traces by question id and contestant.
    """

    def __init__(self, contestants: Mapping[str, Contestant], kept: RunJournal | None = None) -> None:
        super().__init__(write_interval="batch")
        self._engine, self._kept = next(iter(contestants.values())).engine, kept
        self.finished: dict[tuple[str, str], Trace] = {
            (question_id, name): Trace.from_dict(trace)
            for question_id, traces in (kept.take_up() if kept else {}).items()
            for name, trace in traces.items()
        }

    def write_on_batch_end(self, trainer: Any, module: Any, prediction: Traces, *_: Any) -> None:
        for name, rows in prediction.items():
            self.finished |= {(trace.question_id, name): trace for trace in rows}
        if self._kept is not None:
            by_question: dict[str, dict[str, Any]] = {}
            for name, rows in prediction.items():
                for trace in rows:
                    by_question.setdefault(trace.question_id, {})[name] = trace.to_dict()
            self._kept.keep(by_question, self._engine.fingerprint, self._engine.engine.name)


def run_name(questions: Sequence[Question], contestants: Mapping[str, Contestant], timed: bool) -> str:
    """A name that only the same questions, contestants, machine and way of measuring share."""
    from litestage.environment import environment

    content: dict[str, Any] = {
        "questions": [[q.id, q.text, q.options, q.answer] for q in questions],
        "contestants": {
            name: [
                c.engine.identity,
                c.pipeline.hash,
                c.plan.hash,
                repr(c.decoding),
                c.encode(questions[0].text) if questions else [],  # a chat template is around it or not
            ]
            for name, c in contestants.items()
        },
        "timed": timed,
        "environment": environment(next(iter(contestants.values())).engine.engine),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
