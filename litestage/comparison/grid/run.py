"""A grid's comparisons, one after another: what is done is passed over, and what fails does not stop the others."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litestage.atomic import told, write_json
from litestage.comparison.entrants import check_methods
from litestage.comparison.grid.cells import Cell, cells_of, results_before
from litestage.comparison.grid.made_of import made_of, model_files
from litestage.comparison.grid.summary import summarise_grid
from litestage.comparison.write import compare_into
from litestage.config import GridConfig, RunConfig
from litestage.errors import LiteStageError
from litestage.ranks import from_rank_zero, launch, own_folder
from litestage.records import GRID
from litestage.report.grid import write_grid_report
from litestage.session import Session
from litestage.session.workbench import Workbench


@dataclass
class GridRun:
    """What became of a grid's comparisons.

    Attributes:
        root: the grid's folder, with one for each comparison.
        cells: all comparisons.
        found: results.json's content of those that are done.
        failed: why the others are not.
        summary: results.json's content of the whole grid.
    """

    root: Path
    cells: list[Cell]
    found: dict[Cell, dict[str, Any]]
    failed: dict[Cell, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)


def run_cells(
    config: RunConfig,
    typed: str,
    begin: Callable[[int, Cell, GridRun], None],
    end: Callable[[Cell, dict[str, Any] | str], None],
) -> GridRun:
    """Runs every comparison that is not done yet, and writes the summary after each one.

    Args:
        typed: the command that does this again.
        begin: told of each comparison by number, from 1, done before or not.
        end: told of the results of one that ran, or why it failed.

    Raises:
        LiteStageError: a name in the grid that is not known, before anything runs.
    """
    cells = cells_of(config)
    check_methods(config)
    launch(config.trainer, config.engine.device)
    root = Path(config.output or "runs/grid")
    done = from_rank_zero(lambda: {cell: done for cell in cells if (done := results_before(cell, root / cell.folder))})
    run, own_root, loaded, model = GridRun(root, cells, done), own_folder(root), None, None
    for number, cell in enumerate(cells, start=1):
        begin(number, cell, run)
        if cell not in run.found:
            if cell.config.model != model:
                loaded, model = None, cell.config.model  # the other model's memory is free before this one's is taken
            try:
                loaded, run.found[cell] = _run(cell, own_root / cell.folder, loaded, typed, config.grid)
                end(cell, run.found[cell])
            except LiteStageError as error:
                run.failed[cell] = str(error)
                end(cell, str(error))
        run.summary = {**summarise_grid(cells, run.found, run.failed), "command": typed}
        write_json(own_root / "results.json", {"schema": GRID, **run.summary})
        write_grid_report(run.summary, own_root)
    return run


def _run(
    cell: Cell, folder: Path, loaded: tuple[Session, str] | None, typed: str, grid: GridConfig
) -> tuple[tuple[Session, str], dict[str, Any]]:
    """Runs one comparison, on what the one before loaded if that was the same model.

    Returns:
        The session with its model's files as they were before it was loaded, and the results.
    """
    session, files = loaded or (None, model_files(cell.config.model))
    bench = Workbench.open(cell.config, session)
    digests = made_of(cell.config, bench.task, files)
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    named = {"model": cell.config.model.name, "task": cell.config.task, "seed": cell.seed}
    alone = [f"grid.{kind}=[{name}]" for kind, name in named.items() if getattr(grid, kind)]
    words = typed, *(shlex.quote(word) for word in alone if shlex.quote(word) not in typed)
    results, _ = compare_into(folder, bench, " ".join(words), made_of=digests)
    return (bench.session, files), results
