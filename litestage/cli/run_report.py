"""``litestage report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from litestage.atomic import writable
from litestage.cli.output import print_json
from litestage.errors import LiteStageError


def run_report(folders: Sequence[Path], output: Path | None, as_json: bool) -> None:
    """Writes the page, its Markdown twin and their figures: of one run into its own folder, of several into another."""
    from litestage.report import read_run, write_report
    from litestage.report.grid import read_grid, write_grid_report
    from litestage.report.page import collected

    first = folders[0].parent if folders[0].is_file() else folders[0]
    grid = read_grid(first) if len(folders) == 1 else None
    if grid is not None:
        folder = writable(output or first)
        print(f"Written to {folder}/: {', '.join(path.name for path in write_grid_report(grid, folder))}")
        print_json(as_json, grid)
        return
    runs = [read_run(folder) for folder in folders]
    folder = output or (runs[0].folder if len(runs) == 1 else Path("runs/report"))
    if len(runs) > 1 and any(folder.resolve() == run.folder.resolve() for run in runs):
        raise LiteStageError(f"{folder} is one of the runs, whose results.json must stay; give another --output.")
    written = write_report(runs, writable(folder))
    print(f"Written to {folder}/: {', '.join(path.name for path in written)}, figures/")
    print_json(as_json, collected(runs))
