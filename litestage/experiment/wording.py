"""Rows picked out, and figures as they stand in tables and sentences, with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from litestage.experiment.findings import Row
from litestage.report.wording import signed_points, times

INTERVAL = "95 % interval"


def drop_of(row: Row, name: str = "accuracy_drop") -> str:
    """``3.0 points (95 % interval 1.2 to 5.8)``."""
    low, high = row[f"{name}_ci95"]
    return f"{row[name] * 100:.1f} points ({INTERVAL} {low * 100:.1f} to {high * 100:.1f})"


def percent_of(row: Row, name: str) -> str:
    """``97.0% (95 % interval 94.2 to 98.5)``."""
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.1%} ({INTERVAL} {low * 100:.1f} to {high * 100:.1f})"


def either_way(row: Row, name: str) -> str:
    """How far one is behind or ahead, as :func:`drop_of`, without a sign."""
    low, high = row[f"{name}_ci95"]
    return drop_of(row if row[name] > 0 else {name: -row[name], f"{name}_ci95": (-high, -low)}, name)


def skipped(row: Row) -> str:
    """Sub-layers skipped, by stage."""
    return " / ".join(str(sum(stage["skipped"].values())) for stage in row["stages"].values())


def speedup_of(row: Row, name: str = "predicted_speedup", than: str = "") -> str:
    """``1.50 times as fast (95 % interval 1.40 to 1.60)``."""
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.2f} times as fast{than} ({INTERVAL} {low:.2f} to {high:.2f})"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "accuracy": lambda row: f"{row['accuracy']:.1%}",
    "drop, points [95 %]": signed_points,
    "same answers": lambda row: f"{row['agreement']:.1%}",
    "predicted ms": lambda row: f"{row['predicted_latency_s'] * 1000:.1f}",
    "speed-up [95 %]": lambda row: times(row, "predicted_speedup"),
    "tokens": lambda row: " / ".join(f"{stage['tokens']:.1f}" for stage in row["stages"].values()),
}
"""What was found of a plan (:meth:`litestage.experiment.trials.Trials.row`); tokens by stage."""


def where(rows: Sequence[Row], **values: object) -> list[Row]:
    """The rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in values.items())]


def only(rows: Sequence[Row], **values: object) -> Row:
    """The one row that has these values."""
    (row,) = where(rows, **values)
    return row


def distinct(rows: Sequence[Row], name: str) -> list[Any]:
    """A figure's values, each once, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))
