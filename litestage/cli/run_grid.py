"""``litestage compare`` with ``grid``: many comparisons, one after another, and the summary over all."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from litestage.cli.output import print_json, print_results, print_table
from litestage.config import RunConfig
from litestage.errors import LiteStageError

if TYPE_CHECKING:
    from litestage.comparison.grid.cells import Cell
    from litestage.comparison.grid.run import GridRun


def run_grid(config: RunConfig, typed: str, as_json: bool) -> None:
    """Runs every comparison that is not done yet, and prints each one's results and the summary.

    Raises:
        LiteStageError: a name in the grid that is not known, before anything runs; or, after all others have run, how
            many comparisons failed.
    """
    from litestage.comparison.grid.run import run_cells
    from litestage.report.grid import grid_tables

    run = run_cells(config, typed, _begin, _end)
    for table in grid_tables(run.summary):
        print(f"\n{table.title}")
        print_table(table.columns, table.rows)
    print(run.summary["averaged"])
    print(f"Written to {run.root}/: results.json, report.html, report.md, and a folder for each model, task and seed")
    print_json(as_json, run.summary)
    if run.failed:
        names = "; ".join(cell.name for cell in run.failed)
        raise LiteStageError(
            f"{len(run.failed)} of {len(run.cells)} comparisons failed ({names}); the same command tries them again."
        )


def _begin(number: int, cell: Cell, run: GridRun) -> None:
    print(f"{number} of {len(run.cells)}: {cell.name}{', done before' if cell in run.found else ''}")


def _end(cell: Cell, found: dict[str, Any] | str) -> None:
    from litestage.ranks import here

    if not isinstance(found, str):
        print_results(found)
    elif here().rank == 0:
        print(f"litestage: {cell.name}: {found}", file=sys.stderr)
