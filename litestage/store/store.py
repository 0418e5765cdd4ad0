"""The result store: an SQLite file of generations, keyed by everything that changes them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litestage.errors import LiteStageError

_AT_ONCE = 500  # keys per query; SQLite's oldest limit on variables is 999
_PATIENCE_S = 120.0  # how long a process waits for another one's write; a large file's VACUUM takes that long
_SCHEMA_VERSION = 1  # 0: before records had a time of writing, a model and an engine
_ADDED = ("written REAL NOT NULL DEFAULT 0", "model TEXT NOT NULL DEFAULT ''", "engine TEXT NOT NULL DEFAULT ''")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS results (key TEXT PRIMARY KEY, record BLOB NOT NULL, checksum INTEGER NOT NULL, "
    f"{', '.join(_ADDED)})"
)


def default_store_path() -> Path:
    """``$XDG_CACHE_HOME/litestage/results.sqlite``, or the same under ``~/.cache``.

    Raises:
        LiteStageError: neither is known, as for a container's user without a name.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        raise LiteStageError(
            "This user has no home folder to keep the result store in; set store=<file>, or XDG_CACHE_HOME to a folder."
        ) from None
    return cache / "litestage" / "results.sqlite"


class ResultStore:
    """Key to JSON record. Written in transactions: a killed process loses at most the batch in flight.

    Any number of processes may read and write one file at once. Every record carries a checksum, the time it was
    written, and the model and engine it came from.

    Args:
        path: the file, made with its folder where absent; None keeps the records in memory.

    Attributes:
        finished: what :func:`litestage.store.journal.until_written` is to remove; None where nothing waits for it.

    Raises:
        LiteStageError: the file cannot be opened, read or written, or is not a result store.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self.finished: list[str] | None = None
        self._process: int | None = None
        self._open()

    def _open(self) -> None:
        with self.explained("cannot be opened"):
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path or ":memory:", timeout=_PATIENCE_S)
            self._connection.create_function("crc32", 1, zlib.crc32, deterministic=True)
            self._refuse_others()
            _write_ahead(self._connection)
            self._connection.execute("PRAGMA synchronous=NORMAL")
            if self._version() != _SCHEMA_VERSION:
                self._migrate()
        self._process = os.getpid()

    def _refuse_others(self) -> None:
        """Raises LiteStageError for another program's database, which is left as it was."""
        tables = {row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        there = {row[1] for row in self._connection.execute("PRAGMA table_info(results)")}
        if tables and not {"key", "record", "checksum"} <= there:
            raise LiteStageError(f"{str(self.path)!r} is another program's database; set store=<file>.")

    def _version(self) -> int:
        return int(self._connection.execute("PRAGMA user_version").fetchone()[0])

    def _migrate(self) -> None:
        """Makes the table, or adds the columns an older file lacks; its records count as written now."""
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")  # one process at a time; the others find it done
            version = self._version()
            if version > _SCHEMA_VERSION:
                raise LiteStageError(
                    f"The result store {str(self.path)!r} is from a newer LiteStage; upgrade, or set store=<file>."
                )
            if version == _SCHEMA_VERSION:
                return
            self._connection.execute(_TABLE)
            there = {row[1] for row in self._connection.execute("PRAGMA table_info(results)")}
            for column in _ADDED:
                if column.split()[0] not in there:
                    self._connection.execute(f"ALTER TABLE results ADD COLUMN {column}")
            self._connection.execute("UPDATE results SET written = ? WHERE written = 0", (time.time(),))
            self._connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    @property
    def connection(self) -> sqlite3.Connection:
        """This process's connection; one must not cross a fork."""
        if self._process != os.getpid():
            self._open()
        return self._connection

    @contextmanager
    def explained(self, what: str) -> Iterator[None]:
        """Turns SQLite's and the file system's errors into one sentence that names the file."""
        try:
            yield
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # sqlite3 decodes a damaged file's own words
            damaged = not isinstance(error, (sqlite3.OperationalError, OSError))
            remedy = "delete it" if damaged else "see to its disk and its rights,"
            raise LiteStageError(
                f"The result store {str(self.path)!r} {what} ({error}); {remedy} or set store=<file>."
            ) from None

    def get(self, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The records that exist for ``keys``; one that is damaged counts as absent."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, dict[str, Any]] = {}
        with self.explained("cannot be read"):
            for at in range(0, len(wanted), _AT_ONCE):
                chunk = wanted[at : at + _AT_ONCE]
                marks = ",".join("?" * len(chunk))
                rows = self.connection.execute(
                    f"SELECT key, record, checksum FROM results WHERE key IN ({marks})", chunk
                ).fetchall()
                for key, packed, checksum in rows:
                    record = unpacked(packed, checksum)
                    if record is not None:
                        found[key] = record
        return found

    def put(self, records: Mapping[str, Mapping[str, Any]], *, model: str = "", engine: str = "") -> None:
        """Saves records in one transaction; a key that exists already is replaced.

        Args:
            model, engine: where the records came from, for ``litestage store stats``; never part of the key.
        """
        now, rows = time.time(), []
        for key, record in records.items():
            packed = zlib.compress(json.dumps(record, separators=(",", ":")).encode(), 1)
            rows.append((key, packed, zlib.crc32(packed), now, model, engine))
        with self.explained("cannot be written"), self.connection as connection:
            connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)

    def __len__(self) -> int:
        return int(self.connection.execute("SELECT COUNT(*) FROM results").fetchone()[0])


def unpacked(packed: object, checksum: object) -> dict[str, Any] | None:
    """A record as it was put, or None where it is damaged, so that it may be of any type."""
    sound = isinstance(packed, bytes) and zlib.crc32(packed) == checksum
    return json.loads(zlib.decompress(packed)) if sound else None  # type: ignore[arg-type]


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turns on the write-ahead log. SQLite does not wait for a lock here, so several first openers take turns."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
