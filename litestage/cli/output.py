"""How commands print and save: a table first, files in one folder, and one JSON line last where it is asked for."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from litestage.atomic import told, write_text
from litestage.config import RunConfig
from litestage.ranks import own_folder


def console() -> Console:
    """Standard output; wide enough for the tables where it is not a terminal."""
    found = Console()
    return found if found.is_terminal else Console(width=150)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Prints a table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=index == 0)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def print_json(content: Mapping[str, Any]) -> None:
    """One line, last."""
    print(json.dumps(content, separators=(",", ":")))


def command_line(*words: str) -> str:
    """The command as one would type it again, quoted where a shell would read something else."""
    return shlex.join(["litestage", *words])


def output_folder(config: RunConfig, command: str) -> Path:
    """Where a command writes, with the resolved configuration saved in it."""
    default = f"runs/{command}-{Path(config.task).stem}-{Path(config.model.name).name}"
    folder = own_folder(Path(config.output or default))
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
    save_config(config, folder)
    return folder


def save_config(config: RunConfig, folder: Path) -> None:
    """Writes the resolved configuration, every option of it."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))
