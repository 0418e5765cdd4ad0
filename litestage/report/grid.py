"""The page of a grid: what was found over all its comparisons, with links to theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from litestage.errors import LiteStageError
from litestage.reading import read_json
from litestage.records import GRID, Grid, check
from litestage.report.answer import fastest, speed_and_loss
from litestage.report.page import rendered
from litestage.report.tables import Table
from litestage.report.wording import share, signed_points, times

SURE = 0.05
"""Below which adjusted p-value a drop gets its mark."""

Figures = Mapping[str, Any]


def read_grid(folder: Path) -> dict[str, Any] | None:
    """A grid's results.json, or None where the folder's is another one or there is none.

    Raises:
        LiteStageError: a grid's that is not whole.
    """
    path = folder / "results.json"
    try:
        content = read_json(path)
    except LiteStageError:
        return None
    if not isinstance(content, dict) or content.get("schema") != GRID:
        return None
    check(content, Grid, path)
    return content


def write_grid_report(grid: Figures, folder: Path) -> list[Path]:
    """Writes report.html and report.md into the grid's folder."""
    done = [cell for cell in grid["cells"] if cell["state"] == "done"]  # beside others an earlier grid's page may lie
    pages = [cell for cell in done if (folder / cell["folder"] / "report.html").is_file()]
    content = {
        "grid": grid,
        "title": ", ".join(_count(grid[f"{kind}s"], kind) for kind in ("model", "task", "seed")),
        "answers": answers(grid),
        "warnings": warnings(grid),
        "tables": grid_tables(grid),
        "pages": pages,
    }
    written = [folder / "report.html", folder / "report.md"]
    for file in written:
        file.write_text(rendered(f"grid{file.suffix}", **content), encoding="utf-8")
    return written


def answers(grid: Figures) -> list[str]:
    """For each model, its best method on average over its tasks: a searched one, or the fastest that loses least."""
    return [_answer(model, [row for row in grid["averages"] if row["model"] == model]) for model in grid["models"]]


def _answer(model: str, rows: Sequence[Figures]) -> str:
    timed = [row for row in rows if "speedup" in row and row["method"] != "full"]
    best = fastest(timed, "method")
    if best is None:
        return f"With {model} there is no average to tell yet."
    than = f" as full depth on average over {', '.join(best['tasks'])}"
    return f"With {model}, {best['method']} {speed_and_loss(best, than)}."


def warnings(grid: Figures) -> list[str]:
    """What is missing, and what should not be compared."""
    said = [f"{_name(cell)} failed: {cell['error']}" for cell in grid["cells"] if cell["state"] == "failed"]
    waiting = [cell for cell in grid["cells"] if cell["state"] == "to do"]
    if waiting:
        said.append(f"Not run yet: {'; '.join(map(_name, waiting))}. The same command goes on with them.")
    if len(grid["environments"]) > 1:
        said.append(
            f"The comparisons ran in {len(grid['environments'])} environments (machines or versions), and each one's "
            "speed-ups are its environment's own."
        )
    return said


def _count(names: Sequence[object], kind: str) -> str:
    return f"{len(names)} {kind}{'' if len(names) == 1 else 's'}"


def _name(cell: Figures) -> str:
    return f"{cell['model']}, {cell['task']}, seed {cell['seed']}"


def grid_tables(grid: Figures) -> list[Table]:
    """For each model, methods by tasks: accuracy with its drop, speed-up, tokens; the average over tasks first."""
    return [
        table
        for model in grid["models"]
        for title, cell in (
            ("accuracy, drop in points [95 %]", _accuracy),
            ("questions answered as full depth does [95 %]", share),
            ("certified, by what the search did not see", _certified),
            ("times as fast as full depth [95 %]", times),
            ("tokens a question", lambda row: f"{row['tokens']:.1f}"),
        )
        if (table := _table(grid, model, f"{model}: {title}", cell)) is not None
    ]


def _table(grid: Figures, model: str, title: str, cell: Callable[[Figures], str]) -> Table | None:
    averages = {row["method"]: row for row in grid["averages"] if row["model"] == model}
    by_task = {(row["method"], row["task"]): row for row in grid["rows"] if row["model"] == model}
    tasks = [task for task in grid["tasks"] if any(task == known for _, known in by_task)]
    averaged = len(tasks) > 1 and any(map(cell, averages.values()))
    rows = [
        [
            method,
            *([cell(average)] if averaged else []),
            *(cell(by_task[method, task]) if (method, task) in by_task else "" for task in tasks),
        ]
        for method, average in averages.items()
    ]
    if not any(any(row[1:]) for row in rows):
        return None
    ours = frozenset(at for at, row in enumerate(rows) if row[0].startswith("litestage"))
    return Table(title, ["method", *(["average"] if averaged else []), *tasks], rows, ours)


def _certified(row: Figures) -> str:
    """What seeds say, each thing once; of an average nothing."""
    return " / ".join(row.get("certified", ()))


def _accuracy(row: Figures) -> str:
    if row["method"] == "full":
        return f"{row['accuracy']:.1%}"
    sure = " *" if row.get("mcnemar_p_holm", 1.0) < SURE else ""
    return f"{row['accuracy']:.1%}, {signed_points(row)}{sure}"
