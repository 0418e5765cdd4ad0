"""What an experiment finds, and the folder it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from litestage.atomic import write_json, write_text
from litestage.environment import environment, peak_memory
from litestage.records import EXPERIMENT
from litestage.report.drawing import svg_file
from litestage.session.workbench import Workbench

Row = Mapping[str, Any]
"""A row of results.json."""
Columns = Mapping[str, str | Callable[[Row], str]]
"""Columns of a table, by heading: what stands there of a row, or the name of it."""
PREDICTED = "predicted: token counts times step costs measured on this machine"
NO_CLOCK = "not part of it: no figure here depends on a clock"


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        questions: how many questions were answered under each plan.
        rows: those of results.json, intervals included.
        columns: of the table that is printed.
        shows: two sentences computed from the rows.
        figure: the plot, a matplotlib Figure.
        more: other entries of results.json.
        latency: where the table's latencies come from.
        split: where the figures come from.
        shown: the table's rows where it leaves out what the plot shows better, or sums up.
    """

    questions: int
    rows: Sequence[Row]
    columns: Columns
    shows: tuple[str, str]
    figure: Any
    more: Mapping[str, Any] = field(default_factory=dict)
    latency: str = PREDICTED
    split: str = "test"
    shown: Sequence[Row] | None = None

    @property
    def table(self) -> list[list[str]]:
        """The text of every cell."""
        of = self.rows if self.shown is None else self.shown
        return [[str(row[it]) if isinstance(it, str) else it(row) for it in self.columns.values()] for row in of]


def write_findings(found: Findings, bench: Workbench, name: str, command: str, folder: Path) -> dict[str, Any]:
    """Writes results.json and plot.svg; returns what is in results.json."""
    content = {
        "schema": EXPERIMENT,
        "experiment": name,
        "command": command,
        "task": f"{bench.task.name}_multistage",
        "split": found.split,
        "data": dict(bench.task.source.origin),
        "n": found.questions,
        "shows": list(found.shows),
        "model": {"name": bench.config.model.name, "fingerprint": bench.session.loaded.fingerprint},
        "pipeline": {"name": bench.pipeline.name, "hash": bench.pipeline.hash},
        "latency": found.latency,
        "environment": environment(bench.session.engine),
        "memory": peak_memory(),
        "config": asdict(bench.config),
        **found.more,
        "rows": list(found.rows),
    }
    write_json(folder / "results.json", content)
    write_text(folder / "plot.svg", svg_file(found.figure, name))
    return content
