"""What an experiment is, what it finds, and the folder it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic

from litestage.atomic import write_text
from litestage.config import Config
from litestage.environment import environment
from litestage.memory import peak_memory
from litestage.report.drawing import svg_file
from litestage.session.workbench import Workbench

SCHEMA = "litestage.experiment/1"
PREDICTED = "predicted: token counts times step costs measured on this machine"
NO_CLOCK = "not part of it: no figure here depends on a clock"


@dataclass(frozen=True)
class Findings:
    """What an experiment found.

    Attributes:
        split: where the figures come from.
        questions: how many of its questions were answered under each plan.
        rows: one mapping per row of results.json, intervals included.
        columns, table: the same rows as they are printed; may leave out what the plot shows better.
        shows: two sentences computed from the rows.
        figure: the plot, a matplotlib Figure.
        more: other entries of results.json.
        latency: where the table's latencies come from.
    """

    split: str
    questions: int
    rows: Sequence[Mapping[str, Any]]
    columns: Sequence[str]
    table: Sequence[Sequence[str]]
    shows: tuple[str, str]
    figure: Any
    more: Mapping[str, Any]
    latency: str = PREDICTED


@dataclass(frozen=True)
class Experiment(Generic[Config]):
    """A question that one command answers: its options and the function that finds out."""

    options: type[Config]
    run: Callable[[Workbench, Config], Findings]


def write_findings(found: Findings, bench: Workbench, name: str, command: str, folder: Path) -> dict[str, Any]:
    """Writes results.json and plot.svg; returns what is in results.json."""
    content = {
        "schema": SCHEMA,
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
    write_text(folder / "results.json", json.dumps(content, indent=2) + "\n")
    write_text(folder / "plot.svg", svg_file(found.figure, name))
    return content
