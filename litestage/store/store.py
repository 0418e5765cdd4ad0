"""The result store: an SQLite file of generations, keyed by everything that changes them."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from litestage.errors import LiteStageError

_AT_ONCE = 500  # keys per query; SQLite's oldest limit on variables is 999


def default_store_path() -> Path:
    """``$XDG_CACHE_HOME/litestage/results.sqlite``, or the same under ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litestage" / "results.sqlite"


class ResultStore:
    """Key to JSON record. Written in transactions: a killed process loses at most the batch in flight.

    Args:
        path: the file, made with its folder where absent; None keeps the records in memory.

    Raises:
        LiteStageError: the file cannot be opened or is not a result store.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.hits = self.misses = 0
        self._process: int | None = None
        self._open()

    def _open(self) -> None:
        try:
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path or ":memory:", timeout=60)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS results "
                    "(key TEXT PRIMARY KEY, record BLOB NOT NULL, checksum INTEGER NOT NULL)"
                )
        except (sqlite3.Error, OSError) as error:
            raise LiteStageError(
                f"The result store {str(self.path)!r} cannot be opened ({error}); delete it or set store=<file>."
            ) from None
        self._process = os.getpid()

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records that exist for ``keys``; one that is damaged counts as absent."""
        wanted = list(dict.fromkeys(keys))
        if self._process != os.getpid():  # a connection must not cross a fork
            self._open()
        found: dict[str, dict[str, Any]] = {}
        for at in range(0, len(wanted), _AT_ONCE):
            chunk = wanted[at : at + _AT_ONCE]
            marks = ",".join("?" * len(chunk))
            rows = self._connection.execute(f"SELECT key, record, checksum FROM results WHERE key IN ({marks})", chunk)
            for key, record, checksum in rows:
                if zlib.crc32(record) == checksum:
                    found[key] = json.loads(zlib.decompress(record))
        self.hits += len(found)
        self.misses += len(wanted) - len(found)
        return found

    def put(self, records: Mapping[str, Mapping[str, Any]]) -> None:
        """Saves records in one transaction; a key that exists already is replaced."""
        rows = []
        for key, record in records.items():
            packed = zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1)
            rows.append((key, packed, zlib.crc32(packed)))
        if self._process != os.getpid():
            self._open()
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", rows)

    def __len__(self) -> int:
        return int(self._connection.execute("SELECT COUNT(*) FROM results").fetchone()[0])

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]
