"""A share of independent questions, and how far it may be from the truth."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, ``count`` of ``n``: Wilson's score interval, which has a width at 0 and 100 % too."""
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def agreement(first: Sequence[str | None], second: Sequence[str | None]) -> tuple[float, tuple[float, float]]:
    """The share of questions with the same answer, and its 95 % interval; no answer (None) twice is the same."""
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return same / len(first), wilson_interval(same, len(first))
