"""Looking after the store: what is in it, and removing what is old, too much or damaged."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from typing import Any

from litestage.store.store import ResultStore

_KIND = "CASE instr(key, '/') WHEN 0 THEN 'generation' ELSE substr(key, 1, instr(key, '/') - 1) END"
_DAMAGED = "crc32(record) != checksum"


@dataclass(frozen=True)
class Group:
    """Records of one kind, model and engine; ``model`` and ``engine`` are empty where they are not known."""

    kind: str
    model: str
    engine: str
    records: int
    bytes: int
    damaged: int


@dataclass(frozen=True)
class StoreStats:
    """What a store holds.

    Attributes:
        file_bytes: size of the file with its write-ahead log.
        oldest, newest: when records were written, seconds since the epoch; None in an empty store.
    """

    file_bytes: int
    groups: tuple[Group, ...]
    oldest: float | None
    newest: float | None

    @property
    def records(self) -> int:
        return sum(group.records for group in self.groups)

    @property
    def damaged(self) -> int:
        return sum(group.damaged for group in self.groups)


@dataclass(frozen=True)
class Pruned:
    """How many records went, and why; ``compacted`` is False when other processes kept the file from shrinking."""

    damaged: int
    old: int
    beyond_size: int
    kept: int
    bytes_before: int
    bytes_after: int
    compacted: bool


def store_stats(store: ResultStore) -> StoreStats:
    """Counts and checks every record."""
    with store.explained("cannot be read"):
        rows = store.connection.execute(
            f"SELECT {_KIND}, model, engine, COUNT(*), SUM(length(record)), SUM({_DAMAGED}) "
            "FROM results GROUP BY 1, 2, 3 ORDER BY 5 DESC"
        ).fetchall()
        oldest, newest = store.connection.execute("SELECT MIN(written), MAX(written) FROM results").fetchone()
    return StoreStats(_file_bytes(store), tuple(Group(*row) for row in rows), oldest, newest)


def prune(store: ResultStore, *, older_than_s: float | None = None, max_bytes: int | None = None) -> Pruned:
    """Removes damaged records; then those written longer ago than ``older_than_s``; then the oldest until it fits.

    Processes that use the store meanwhile go on: what they miss, they compute again.
    """
    with store.explained("cannot be pruned"):
        before = _file_bytes(store)
        damaged = _delete(store, _DAMAGED)
        old = 0 if older_than_s is None else _delete(store, "written < ?", time.time() - older_than_s)
        compacted, beyond = _compact(store), 0
        while max_bytes is not None and len(store) and (used := _used_bytes(store)) > max_bytes:
            content = store.connection.execute("SELECT SUM(length(record)) FROM results").fetchone()[0]
            beyond += _delete(
                store,
                "rowid IN (SELECT rowid FROM (SELECT rowid, SUM(length(record)) OVER "
                "(ORDER BY written DESC, rowid DESC) AS newer FROM results) WHERE newer > ?)",
                content * max_bytes / used,  # less than the content, so that at least the oldest goes
            )
            compacted = _compact(store)
        return Pruned(damaged, old, beyond, len(store), before, _file_bytes(store), compacted)


def _delete(store: ResultStore, condition: str, *values: float) -> int:
    with store.connection as connection:
        return connection.execute(f"DELETE FROM results WHERE {condition}", values).rowcount


def _compact(store: ResultStore) -> bool:
    """Gives freed pages back to the file system; False when another process was in the way."""
    try:
        store.connection.execute("VACUUM")
        busy: Any = store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy
    except sqlite3.OperationalError:
        return False


def _used_bytes(store: ResultStore) -> int:
    pages, free, size = (
        int(store.connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _file_bytes(store: ResultStore) -> int:
    if store.path is None:
        return _used_bytes(store)
    files = (store.path, store.path.with_name(store.path.name + "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
