"""Figures as they stand in tables and sentences: points, milliseconds and speed-ups with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestage.report.wording import signed_points, times

INTERVAL = "95 % interval"


def points(drop: float, interval: Sequence[float]) -> str:
    """``3.0 points (95 % interval 1.2 to 5.8)``."""
    return f"{drop * 100:.1f} points ({INTERVAL} {interval[0] * 100:.1f} to {interval[1] * 100:.1f})"


def drop_of(row: Mapping[str, Any]) -> str:
    return points(row["accuracy_drop"], row["accuracy_drop_ci95"])


def either_way(row: Mapping[str, Any], name: str) -> str:
    """How far one is behind or ahead, as :func:`points`, without a sign."""
    behind, (low, high) = row[name], row[f"{name}_ci95"]
    return points(behind, (low, high)) if behind > 0 else points(-behind, (-high, -low))


def skipped(row: Mapping[str, Any]) -> str:
    """Sub-layers skipped, by stage."""
    return " / ".join(str(sum(stage["skipped"].values())) for stage in row["stages"].values())


def speedup_of(row: Mapping[str, Any]) -> str:
    low, high = row["predicted_speedup_ci95"]
    return f"{row['predicted_speedup']:.2f} times as fast ({INTERVAL} {low:.2f} to {high:.2f})"


COLUMNS = ("accuracy", "drop, points [95 %]", "same answers", "predicted ms", "speed-up [95 %]", "tokens")


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row under ``COLUMNS``; tokens by stage."""
    return [
        f"{row['accuracy']:.1%}",
        signed_points(row),
        f"{row['agreement']:.1%}",
        f"{row['predicted_latency_s'] * 1000:.1f}",
        times(row, "predicted_speedup"),
        " / ".join(f"{stage['tokens']:.1f}" for stage in row["stages"].values()),
    ]
