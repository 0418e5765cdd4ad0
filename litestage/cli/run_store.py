"""``litestage store stats`` and ``litestage store prune``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from litestage.cli.output import print_json, print_table
from litestage.errors import LiteStageError
from litestage.overrides import configure

_DAY_S = 86_400.0
_MB = 1_000_000


@dataclass
class StatsOptions:
    """Options of ``store stats``: the store's file."""

    store: str | None = None


@dataclass
class PruneOptions(StatsOptions):
    """Options of ``store prune``.

    Attributes:
        older_than_days: remove what was written longer ago.
        max_mb: remove the oldest records until the file is at most this many megabytes (1,000,000 bytes).
    """

    older_than_days: float | None = None
    max_mb: float | None = None


def stats(overrides: Sequence[str], as_json: bool) -> None:
    """Prints what the store holds; every record's checksum is verified."""
    path = _existing(configure(StatsOptions, [], overrides))
    from litestage.store import ResultStore, store_stats

    found = store_stats(ResultStore(path))
    rows = [
        [group.kind, group.model or "not known", group.engine, str(group.records), _mb(group.bytes), str(group.damaged)]
        for group in found.groups
    ]
    print_table(["kind", "model (fingerprint)", "engine", "records", "MB", "damaged"], rows, title=str(path))
    written = ""
    if found.oldest is not None and found.newest is not None:
        written = f", written {_days_ago(found.oldest)} to {_days_ago(found.newest)} days ago"
    print(f"{found.records} records in {_mb(found.file_bytes)} MB, {found.damaged} of them damaged{written}.")
    print_json(as_json, {"store": str(path), "records": found.records, "damaged": found.damaged, **asdict(found)})


def prune(overrides: Sequence[str], as_json: bool) -> None:
    """Removes records and says how many went, and why."""
    options = configure(PruneOptions, [], overrides)
    for name, value in (("older_than_days", options.older_than_days), ("max_mb", options.max_mb)):
        if value is not None and not 0 <= value < float("inf"):
            raise LiteStageError(f"{name} is {value}; give 0 or more.")
    path = _existing(options)
    from litestage.store import ResultStore
    from litestage.store import prune as prune_store

    done = prune_store(
        ResultStore(path),
        older_than_s=None if options.older_than_days is None else options.older_than_days * _DAY_S,
        max_bytes=None if options.max_mb is None else int(options.max_mb * _MB),
    )
    reasons = [f"{done.damaged} damaged"]
    if options.older_than_days is not None:
        reasons.append(f"{done.old} older than {options.older_than_days:g} days")
    if options.max_mb is not None:
        reasons.append(f"{done.beyond_size} of the oldest beyond {options.max_mb:g} MB")
    print(
        f"Removed {', '.join(reasons)}; {done.kept} records are left, "
        f"the file went from {_mb(done.bytes_before)} to {_mb(done.bytes_after)} MB."
    )
    if not done.compacted:
        print("Another process uses the store, so the file did not shrink; the free space is used again.")
    print_json(as_json, {"store": str(path), **asdict(done)})


def _existing(options: StatsOptions) -> Path:
    from litestage.store.store import default_store_path

    path = Path(options.store) if options.store else default_store_path()
    if not path.is_file():
        raise LiteStageError(
            f"There is no result store {str(path)!r}; commands make it when they run, or set store=<file>."
        )
    return path


def _mb(size: int) -> str:
    return f"{size / _MB:.2f}"


def _days_ago(written: float) -> str:
    return f"{max(0.0, time.time() - written) / _DAY_S:.1f}"
