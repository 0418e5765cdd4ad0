"""Intervals for a drop in accuracy and for a speed-up, both paired over questions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from scipy.stats import binomtest

RESAMPLES = 10_000


def accuracy_drop_interval(full: Sequence[bool], method: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of accuracy(full) - accuracy(method), as fractions, over the same questions.

    Newcombe's hybrid score interval for paired proportions (Statistics in Medicine 17, 1998, method 10), which keeps
    its width near 0 and 100 %, where a bootstrap of a handful of discordant pairs collapses.
    """
    n = len(full)
    both = sum(a and b for a, b in zip(full, method, strict=True))
    only_full = sum(full) - both
    only_method = sum(method) - both
    neither = n - both - only_full - only_method
    p, q = sum(full) / n, sum(method) / n
    p_low, p_high = _wilson(sum(full), n)
    q_low, q_high = _wilson(sum(method), n)
    margins = (both + only_full) * (only_method + neither) * (both + only_method) * (only_full + neither)
    phi = 0.0
    if margins:
        crossed = float(both * neither - only_full * only_method)
        if crossed > 0:  # continuity correction of method 10
            crossed = max(crossed - n / 2, 0.0)
        phi = crossed / sqrt(margins)
    low = sqrt(max(0.0, (p - p_low) ** 2 - 2 * phi * (p - p_low) * (q_high - q) + (q_high - q) ** 2))
    high = sqrt(max(0.0, (p_high - p) ** 2 - 2 * phi * (p_high - p) * (q - q_low) + (q - q_low) ** 2))
    return p - q - low, p - q + high


def _wilson(successes: int, n: int) -> tuple[float, float]:
    interval = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def speedup_interval(full_s: Sequence[float], method_s: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of sum(full_s) / sum(method_s), by a bootstrap that resamples questions with both their times."""
    times = np.array([full_s, method_s])
    drawn = np.random.default_rng(seed).integers(0, times.shape[1], (RESAMPLES, times.shape[1]))
    full, method = times[:, drawn].sum(axis=2)
    low, high = np.percentile(full / method, [2.5, 97.5])
    return float(low), float(high)
