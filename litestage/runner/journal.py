"""The journal of a run: one line per finished batch, so that a killed run, started again, goes on where it was.

Every rank writes a file of its own. All of them are read, so a run may be taken up with another number of devices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import BasePredictionWriter

from litestage.runner.contestant import Contestant
from litestage.stages import Question
from litestage.trace import Trace

Traces = dict[str, list[Trace]]


class Journal(BasePredictionWriter):
    """Collects every batch's traces, and with a path also appends them to a file that a later run can take up.

    Args:
        path: the journal's files without their endings, ``.<rank>.jsonl``.

    Attributes:
        finished: traces by question id and contestant.
    """

    def __init__(self, path: Path | None = None, rank: int = 0) -> None:
        super().__init__(write_interval="batch")
        self.path = path.with_name(f"{path.name}.{rank}.jsonl") if path else None
        self.finished: dict[tuple[str, str], Trace] = {}
        self._read: list[Path] = []
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read = sorted(path.parent.glob(f"{path.name}.*.jsonl"))
        for file in self._read:
            self._take_up(file)

    def _take_up(self, path: Path) -> None:
        """Reads a file of an unfinished run; a last line cut short by a kill is dropped."""
        whole = 0
        for line in path.read_bytes().splitlines(keepends=True):
            try:
                traces = {name: [Trace.from_dict(raw) for raw in rows] for name, rows in json.loads(line).items()}
            except ValueError:
                break
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            self._keep(traces)
        if path == self.path:
            with path.open("rb+") as file:
                file.truncate(whole)

    def _keep(self, traces: Traces) -> None:
        for name, rows in traces.items():
            for trace in rows:
                self.finished[trace.question_id, name] = trace

    def write_on_batch_end(self, trainer: Any, module: Any, prediction: Traces, *_: Any) -> None:
        if self.path is not None:
            line = json.dumps({name: [trace.to_dict() for trace in rows] for name, rows in prediction.items()})
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self._keep(prediction)

    def close(self) -> None:
        """The run is finished: nothing is left to take up."""
        for path in (*self._read, *([self.path] if self.path else [])):
            path.unlink(missing_ok=True)


def journal_name(questions: Sequence[Question], contestants: Mapping[str, Contestant], timed: bool) -> str:
    """A name that only the same questions, contestants, machine and way of measuring share."""
    from litestage.environment import environment

    content: dict[str, Any] = {
        "questions": [[q.id, q.text, q.options, q.answer] for q in questions],
        "contestants": {
            name: [
                c.engine.fingerprint,
                c.pipeline.hash,
                c.plan.hash,
                repr(c.decoding),
                str(c.engine.engine.decoder.dtype),
            ]
            for name, c in contestants.items()
        },
        "timed": timed,
        "environment": environment(next(iter(contestants.values())).engine.engine),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
