"""``litestage compare`` with ``grid``: many comparisons, one after another, and the summary over all."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litestage.atomic import told, write_text
from litestage.cli.output import print_json, print_table, save_config
from litestage.cli.run_compare import compare_into
from litestage.config import RunConfig
from litestage.errors import LiteStageError

if TYPE_CHECKING:
    from litestage.grid import Cell
    from litestage.session import Session


def run_grid(config: RunConfig, typed: str, as_json: bool) -> None:
    """Runs every comparison that is not done yet, prints the summary, and writes it after each one.

    Raises:
        LiteStageError: a name in the grid that is not known, before anything runs; or, after all others have run, how
            many comparisons failed.
    """
    from litestage.compare import check_methods
    from litestage.grid import Cell, cells_of, results_before, summarise_grid
    from litestage.ranks import from_rank_zero, here, launch, own_folder
    from litestage.report.grid import grid_tables

    cells = cells_of(config)
    check_methods(config)
    launch(config.trainer, config.engine.device)
    root, failed = Path(config.output or "runs/grid"), dict[Cell, str]()
    found = from_rank_zero(lambda: {cell: done for cell in cells if (done := results_before(cell, root / cell.folder))})
    own_root, session, model = own_folder(root), None, None
    for number, cell in enumerate(cells, start=1):
        print(f"{number} of {len(cells)}: {cell.name}{', done before' if cell in found else ''}")
        if cell not in found:
            if cell.config.model != model:
                session, model = None, cell.config.model  # the other model's memory is free before this one's is taken
            try:
                session, found[cell] = _run(cell, own_root / cell.folder, session, typed)
            except LiteStageError as error:
                failed[cell] = str(error)
                if here().rank == 0:
                    print(f"litestage: {cell.name}: {error}", file=sys.stderr)
        summary = {**summarise_grid(cells, found, failed), "command": typed}
        _write(summary, own_root)
    for table in grid_tables(summary):
        print(f"\n{table.title}")
        print_table(table.columns, table.rows)
    print(summary["averaged"])
    print(f"Written to {root}/: results.json, report.html, report.md, and a folder for each model, task and seed")
    if as_json:
        print_json(summary)
    if failed:
        raise LiteStageError(
            f"{len(failed)} of {len(cells)} comparisons failed ({'; '.join(cell.name for cell in failed)}); "
            "the same command tries them again."
        )


def _run(cell: Cell, folder: Path, session: Session | None, typed: str) -> tuple[Session, dict[str, Any]]:
    """Runs one comparison, on the session of the one before if that was the same model; returns session and results."""
    from litestage.workbench import Workbench

    bench = Workbench.open(cell.config, session)
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").unlink(missing_ok=True)  # what is there from now on belongs to these options
    save_config(cell.config, folder)
    model, task = cell.config.model.name, cell.config.task
    words = typed, *map(shlex.quote, (f"grid.model=[{model}]", f"grid.task=[{task}]", f"grid.seed=[{cell.seed}]"))
    return bench.session, compare_into(folder, bench, " ".join(words))


def _write(summary: Mapping[str, Any], folder: Path) -> None:
    from litestage.grid import SCHEMA
    from litestage.report.grid import write_grid_report

    write_text(folder / "results.json", json.dumps({"schema": SCHEMA, **summary}, indent=2) + "\n")
    write_grid_report(summary, folder)
