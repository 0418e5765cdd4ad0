"""Figures as they stand in tables and sentences: points, milliseconds and speed-ups with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

INTERVAL = "95 % interval"


def points(drop: float, interval: Sequence[float]) -> str:
    """``3.0 points (95 % interval 1.2 to 5.8)``."""
    return f"{drop * 100:.1f} points ({INTERVAL} {interval[0] * 100:.1f} to {interval[1] * 100:.1f})"


def drop_of(row: Mapping[str, Any]) -> str:
    return points(row["accuracy_drop"], row["accuracy_drop_ci95"])


def speedup_of(row: Mapping[str, Any]) -> str:
    low, high = row["predicted_speedup_ci95"]
    return f"{row['predicted_speedup']:.2f} times as fast ({INTERVAL} {low:.2f} to {high:.2f})"


COLUMNS = ("accuracy", "drop, points [95 %]", "same answers", "predicted ms", "speed-up [95 %]", "tokens")


def cells(row: Mapping[str, Any]) -> list[str]:
    """A row under ``COLUMNS``; tokens by stage."""
    (low, high), (slow, fast) = row["accuracy_drop_ci95"], row["predicted_speedup_ci95"]
    return [
        f"{row['accuracy']:.1%}",
        f"{row['accuracy_drop'] * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]",
        f"{row['agreement']:.1%}",
        f"{row['predicted_latency_s'] * 1000:.1f}",
        f"{row['predicted_speedup']:.2f}x [{slow:.2f}, {fast:.2f}]",
        " / ".join(f"{stage['tokens']:.1f}" for stage in row["stages"].values()),
    ]
