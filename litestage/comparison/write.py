"""A comparison run, and everything of it written into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litestage.atomic import told, write_json
from litestage.comparison.compare import Comparison, compare
from litestage.comparison.samples import write_samples
from litestage.config import RunConfig, save_config
from litestage.errors import LiteStageError
from litestage.methods.shorthand import parted
from litestage.ranks import here
from litestage.records import RESULTS, SEARCH, Search, read_record
from litestage.report import read_run, write_report
from litestage.search.record import clear_frontier, write_search
from litestage.session.profiled import write_known_importance
from litestage.session.workbench import Workbench
from litestage.store.journal import until_written
from litestage.tracking import track

SEARCHED = ("plan.yaml", "plan.safetensors", "search.json")
"""What a search leaves, in the order in which it is taken away."""


def compare_into(
    folder: Path, bench: Workbench, typed: str, job: str = "compare", made_of: Mapping[str, str] | None = None
) -> tuple[dict[str, Any], Comparison]:
    """Compares the configuration's methods and writes everything into ``folder``; returns what is in results.json.

    Args:
        typed: the command that does this again.
        job: what a tracker calls it.
        made_of: digests by which a grid knows its comparison again (:mod:`litestage.comparison.grid.made_of`).
    """
    with until_written(bench.session.reusing.store):
        found = compare(bench)
        results = {**found.results, **({"made_of": dict(made_of)} if made_of else {}), "command": typed}
        _clear(folder, bench.config, searched=found.search is not None)
        save_config(bench.config, folder)
        write_samples(found.questions, found.measured, folder)
        if found.search:
            write_search(found.search, folder)
        write_known_importance(bench, folder)
        write_json(folder / "results.json", {"schema": RESULTS, **results})
        run = read_run(folder)
        if here().rank == 0:
            write_report([run], folder)  # takes seconds: a kill meanwhile must not cost the times that were measured
    track(bench.config.tracking, run, job)
    return results, found


def _clear(folder: Path, config: RunConfig, searched: bool) -> None:
    """Takes away what an earlier run left here, its results first; a search stays whose plan is compared now.

    A ``plan.yaml`` without a ``search.json`` is no run's, but somebody's own.
    """
    kept = not searched and compares_a_plan_in(folder, config)
    left = () if kept or not (folder / "search.json").exists() else SEARCHED
    with told(folder):
        for name in ("results.json", "profile.json", *left):
            (folder / name).unlink(missing_ok=True)
    if left:
        clear_frontier(folder)


def refuse_a_search(folder: Path, config: RunConfig) -> None:
    """Raises LiteStageError where the folder holds what ``litestage search`` left and none of its plans is compared."""
    file = folder / "search.json"
    if not file.is_file() or compares_a_plan_in(folder, config):
        return
    if read_record(file, {SEARCH: Search}).get("command"):  # one that a comparison left names none
        raise LiteStageError(
            f"{folder} holds the search.json of a search, which would be lost; give another output=, compare its plan "
            f"({folder / 'plan.yaml'}), or move it."
        )


def compares_a_plan_in(folder: Path, config: RunConfig) -> bool:
    """Whether one of the methods is a plan's file in this folder, or below it."""
    bodies = (parted(spec)[0] for spec in config.methods)
    plans = (Path(body).resolve() for body in bodies if body.endswith((".yaml", ".yml")))
    return any(folder.resolve() in plan.parents for plan in plans)
