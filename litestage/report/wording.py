"""Figures as tables show them, each with its 95 % interval: of ``row[name]`` and ``row[f"{name}_ci95"]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Figures = Mapping[str, Any]


def signed_points(row: Figures, name: str = "accuracy_drop", digits: int = 1) -> str:
    """``+1.2 [-0.3, +2.5]``, of fractions."""
    value, low, high = (f"{share * 100:+.{digits}f}" for share in (row[name], *row[f"{name}_ci95"]))
    return f"{value} [{low}, {high}]"


def percent(row: Figures, name: str) -> str:
    """``97.0 [94.2, 98.5]``, of fractions."""
    low, high = row[f"{name}_ci95"]
    return f"{row[name] * 100:.1f} [{low * 100:.1f}, {high * 100:.1f}]"


def share(row: Figures) -> str:
    """``97.0% [94.2, 98.5]`` of the answers as full depth's; empty where an older file does not have it."""
    return percent(row, "agreement").replace(" ", "% ", 1) if "agreement" in row else ""


def times(row: Figures, name: str = "speedup") -> str:
    """``1.80x [1.72, 1.88]``; empty for a method that was not timed."""
    if name not in row:
        return ""
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.2f}x [{low:.2f}, {high:.2f}]"
