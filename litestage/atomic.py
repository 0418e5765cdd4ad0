"""Files that are there whole or not at all: written beside their place, then put there in one move."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from litestage.errors import LiteStageError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what takes ``path``'s place when the block ends well; until then what was there stays.

    Raises:
        LiteStageError: the folder cannot be made or written, or its disk is full.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, in one move; raises as :func:`replacing` does."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file as :func:`write_text` does."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def writable(folder: Path) -> Path:
    """The folder, made, and found to be writable before any work; raises as :func:`replacing` does."""
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as file:
            file.write(b"writable")
    return folder


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Turns what the file system says into one sentence that names the place."""
    try:
        yield
    except OSError as error:
        raise LiteStageError(
            f"{str(path)!r} cannot be written ({error.strerror or error}); see to its disk and its rights, or give "
            "another place. What was finished is kept: the same command goes on from there."
        ) from None
