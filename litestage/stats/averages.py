"""Averages of estimates that have intervals of their own."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean

Interval = Sequence[float]


def over_independent(estimates: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, float, float]:
    """The mean of independent estimates, such as several tasks', and its interval, at the intervals' own level.

    The distances from each estimate to its limits are added as variances are, each side for itself (MOVER; Zou and
    Donner, Statistics in Medicine 27, 2008, 1693-1702), so that score intervals keep their shape near 0 and 100 %.

    Returns:
        The mean, its lower and its upper limit.
    """
    mean, count = fmean(estimates), len(estimates)
    below = sqrt(sum((value - low) ** 2 for value, (low, _) in zip(estimates, intervals, strict=True))) / count
    above = sqrt(sum((high - value) ** 2 for value, (_, high) in zip(estimates, intervals, strict=True))) / count
    return mean, mean - below, mean + above


def over_the_same(estimates: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, float, float]:
    """The mean of estimates on the same questions, such as several seeds', and an interval that is never too narrow.

    Nothing is gained by asking the same questions again: the limits are the means of the limits, right where the
    estimates go up and down together and too wide where they do not.
    """
    return fmean(estimates), fmean(low for low, _ in intervals), fmean(high for _, high in intervals)
