"""What a run folder holds, read for a report: results, search, importance, plan, and a sample of traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from litestage.errors import LiteStageError
from litestage.reading import read_text
from litestage.records import (
    EXPERIMENT,
    PROFILE,
    RESULTS,
    SEARCH,
    Experiment,
    Profile,
    Results,
    Search,
    read_asked,
    read_record,
)

FILES = ("results.json", "search.json", "profile.json")
"""Any of them makes a folder a run."""


@dataclass(frozen=True)
class Run:
    """One run folder's files; what is not there is None or empty.

    Attributes:
        comparison: results.json of ``litestage compare`` or ``demo``.
        experiment: results.json of ``litestage experiment``.
        plot: an experiment's plot.svg.
        search: search.json.
        profile: profile.json, or the part of it that a comparison leaves.
        plan: plan.yaml as it stands there.
        config: config.yaml as it stands there.
        traces: the lines of traces.jsonl.
    """

    folder: Path
    comparison: dict[str, Any] | None = None
    experiment: dict[str, Any] | None = None
    plot: bytes | None = None
    search: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    plan: str | None = None
    config: str | None = None
    traces: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def title(self) -> str:
        """What was done, on what, by which model."""
        content = self.comparison or self.experiment
        if content is not None:
            what = self.experiment["experiment"] if self.experiment else "methods compared"
            return f"{what} on {content['task'].removesuffix('_multistage')}, model {content['model']['name']}"
        return f"{'search' if self.search else 'profile'}, {self.name}"


def read_run(folder: Path) -> Run:
    """The run in a folder, or beside a results.json.

    Raises:
        LiteStageError: a folder that holds no run, or a file in it that is not what it should be.
    """
    if folder.is_file():
        folder = folder.parent
    if not any((folder / name).is_file() for name in FILES):
        raise LiteStageError(
            f"There is no run in {folder}; give the folder that litestage compare, search, profile or experiment wrote."
        )
    results = _record(folder / "results.json", {RESULTS: Results, EXPERIMENT: Experiment})
    schema = results["schema"] if results else None
    plot, traces = folder / "plot.svg", folder / "traces.jsonl"
    return Run(
        folder,
        comparison=results if schema == RESULTS else None,
        experiment=results if schema == EXPERIMENT else None,
        plot=plot.read_bytes() if schema == EXPERIMENT and plot.is_file() else None,
        search=_record(folder / "search.json", {SEARCH: Search}),
        profile=_record(folder / "profile.json", {PROFILE: Profile}),
        plan=_text(folder / "plan.yaml"),
        config=_text(folder / "config.yaml"),
        traces=read_asked(traces) if traces.is_file() else [],
    )


def _text(path: Path) -> str | None:
    return read_text(path) if path.is_file() else None


def _record(path: Path, shapes: Mapping[str, type[BaseModel]]) -> dict[str, Any] | None:
    return read_record(path, shapes) if path.is_file() else None
