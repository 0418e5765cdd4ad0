"""The journal of unfinished runs, in the store: what a run that is killed had finished, and goes on from.

A record belongs to a run, to whoever keeps it and to a question. Who takes a run up makes all that it finds its own,
and removes only its own when it is done; where that was another command's that still runs, that one writes its own
again. What nobody took up is pruned like any other record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from litestage.store.store import ResultStore, unpacked

KIND = "journal"


class RunJournal:
    """What is kept of one run.

    Args:
        run: names it: equal for equal runs only. No slash.
        writer: names who keeps it, the same for all ranks of a command. No slash.
    """

    def __init__(self, store: ResultStore, run: str, writer: str) -> None:
        self._store, self._run, self._own = store, f"{KIND}/{run}/", f"{KIND}/{run}/{writer}/"
        self._finished: dict[str, Mapping[str, Any]] = {}

    def take_up(self) -> dict[str, dict[str, Any]]:
        """By question, what an earlier command of the same run has left; it is this one's from now on."""
        with self._store.explained("cannot be written"), self._store.connection as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "UPDATE OR REPLACE results SET key = ?1 || substr(key, ?2 + instr(substr(key, ?2), '/')) "
                "WHERE key > ?3 AND key < ?4",
                (self._own, len(self._run) + 1, *_between(self._run)),
            )
            rows = connection.execute(
                "SELECT key, record, checksum FROM results WHERE key > ? AND key < ?", _between(self._own)
            ).fetchall()
        records = ((key, unpacked(record, checksum)) for key, record, checksum in rows)
        self._finished = {key: record for key, record in records if record is not None}
        return {key[len(self._own) :]: dict(record) for key, record in self._finished.items()}

    def keep(self, finished: Mapping[str, Mapping[str, Any]], model: str, engine: str) -> None:
        """Adds records by question, all or none of them."""
        new = {self._own + name: record for name, record in finished.items()}
        if self._count() < len(self._finished):  # an identical command took them up
            new = self._finished | new
        self._finished |= new
        self._store.put(new, model=model, engine=engine)

    def _count(self) -> int:
        with self._store.explained("cannot be read"):
            counted = self._store.connection.execute(
                "SELECT COUNT(*) FROM results WHERE key > ? AND key < ?", _between(self._own)
            )
            return int(counted.fetchone()[0])

    def close(self) -> None:
        """The run is finished: nothing is left to take up, but see :func:`until_written`."""
        if self._store.finished is None:
            _remove(self._store, self._own)
        else:
            self._store.finished.append(self._own)


@contextmanager
def until_written(store: ResultStore) -> Iterator[None]:
    """Keeps what runs inside have finished until the block ends well: what could not be written is not lost."""
    store.finished = []
    try:
        yield
        for own in store.finished:
            _remove(store, own)
    finally:
        store.finished = None


def _remove(store: ResultStore, prefix: str) -> None:
    with store.explained("cannot be written"), store.connection as connection:
        connection.execute("DELETE FROM results WHERE key > ? AND key < ?", _between(prefix))


def _between(prefix: str) -> tuple[str, str]:
    """All keys that begin with the prefix lie between these: a zero follows a slash."""
    return prefix, prefix[:-1] + "0"
