"""How commands print and save: a table first, files in one folder, and one JSON line last where it is asked for."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from litestage.atomic import writable
from litestage.config import RunConfig
from litestage.errors import LiteStageError
from litestage.ranks import own_folder

IN_THE_REPORT = ("p (Holm)", "p95 ms", "no answer", "by likelihood", "peak CUDA MB")
"""Columns of a comparison that its page has and the terminal has not."""


def console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=150)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Prints a table; the first column is text, the others are figures."""
    table = Table(title=title and Text(title), title_justify="left")  # a name's [brackets] are no markup
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)


def print_json(wanted: bool, content: Mapping[str, Any]) -> None:
    """One line, last, where it is wanted."""
    if wanted:
        print(json.dumps(content, separators=(",", ":")))


def command_line(*words: str) -> str:
    """The command as one would type it again, quoted where a shell would read something else."""
    return shlex.join(["litestage", *words])


def output_folder(config: RunConfig, command: str, apart_from: Sequence[str] = ()) -> Path:
    """Where a command will write, found to be writable before any work; what is in it stays until then.

    Args:
        apart_from: files of runs that this one would not go with.

    Raises:
        LiteStageError: a folder that cannot be written, or that holds such a file.
    """
    default = f"runs/{command}-{Path(config.task).stem}-{Path(config.model.name).name}"
    folder = own_folder(Path(config.output or default))
    for name in apart_from:
        if (folder / name).is_file():
            raise LiteStageError(
                f"{folder} holds the {name} of another run, which would be lost or taken for this one's; give another "
                "output=, or move it."
            )
    return writable(folder)


def say_unused(command: str, overrides: Sequence[str]) -> None:
    """Says which options of comparisons were given to a command that makes nothing of them."""
    given = dict.fromkeys(re.split(r"[=.\[]", override, maxsplit=1)[0] for override in overrides)
    for name in given:
        if name in _OF_COMPARISONS:
            print(f"litestage {command} makes no use of {name}.", file=sys.stderr)


_OF_COMPARISONS = ("methods", "variants", "budget", "questions", "latency_questions")


def print_results(results: dict[str, Any]) -> None:
    """The comparison as a table, one method a row: what of the report's table has room in a terminal."""
    from litestage.report.tables import methods_cells

    shown = {name: cells for name, cells in methods_cells(results).items() if name not in IN_THE_REPORT}
    print_table(
        [name.replace(": ", "\n") for name in shown],
        list(zip(*shown.values(), strict=True)),
        title=f"{results['task']}, {results['n']} test questions, {results['model']['name']} "
        f"on {results['environment']['hardware']}",
    )
    if "ms" not in shown:
        print(f"Latency: {results['latency_measured']}.")
