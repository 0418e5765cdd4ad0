"""Whether a figure got worse between two runs by more than noise: p-values that are small only where it did."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, sqrt

import numpy as np
from scipy.stats import fisher_exact, norm
from scipy.stats import t as student

from litestage.stats.bootstrap import resampled_sums
from litestage.stats.proportion import wilson_interval

RESAMPLES = 2_000

Times = tuple[Sequence[float], Sequence[float]]
"""Full depth's seconds and the method's, for the same questions in the same order."""


def fewer_right(before: tuple[int, int], after: tuple[int, int]) -> float:
    """P-value of having become less accurate where questions cannot be paired: Fisher's exact test, one-sided.

    Args:
        before, after: how many were right, out of how many.
    """
    (right, n), (right_after, n_after) = before, after
    table = [[right, n - right], [right_after, n_after - right_after]]
    return float(fisher_exact(table, alternative="greater").pvalue)


def unpaired_drop_interval(before: tuple[int, int], after: tuple[int, int]) -> tuple[float, float]:
    """95 % interval of the drop between two independent proportions.

    Newcombe's hybrid of two Wilson intervals (Statistics in Medicine 17, 1998, 873-890, method 10).
    """
    p, q = before[0] / before[1], after[0] / after[1]
    (low_p, high_p), (low_q, high_q) = wilson_interval(*before), wilson_interval(*after)
    return p - q - sqrt((p - low_p) ** 2 + (high_q - q) ** 2), p - q + sqrt((high_p - p) ** 2 + (q - low_q) ** 2)


def slower(before: Times, after: Times, tolerance: float) -> float:
    """P-value of the speed-up having fallen by more than ``tolerance``, a fraction, between two runs.

    Student's t on the logarithm of the speed-ups' ratio; its error from a bootstrap that resamples questions, each
    with its four times.
    """
    times = np.array([*before, *after], dtype=float)
    n = times.shape[1]
    if n < 2:
        return 1.0
    error = float(np.std(_log_change(resampled_sums(times, RESAMPLES)), ddof=1))
    return _lower_tail(float(_log_change(times.sum(axis=1))) - log(1 - tolerance), error, n - 1)


def _log_change(sums: np.ndarray) -> np.ndarray:
    full, method, full_after, method_after = np.log(sums)
    return np.asarray((full_after - method_after) - (full - method))


def slower_by_intervals(
    before: tuple[float, float, float], after: tuple[float, float, float], tolerance: float
) -> float:
    """The same where only the speed-ups and their 95 % intervals are known: (speed-up, low, high).

    1 where an interval has no width, which is that of a single question.
    """
    widths = [log(high / low) / (2 * norm.ppf(0.975)) for _, low, high in (before, after)]
    if not all(widths):
        return 1.0
    return _lower_tail(log(after[0] / before[0]) - log(1 - tolerance), sqrt(sum(width**2 for width in widths)))


def more(before: Sequence[float], after: Sequence[float], tolerance: float) -> float:
    """P-value of a sum over the same questions having risen by more than ``tolerance``: a paired t-test, one-sided."""
    beyond = np.asarray(after, dtype=float) - (1 + tolerance) * np.asarray(before, dtype=float)
    n = len(beyond)
    if n < 2:
        return 1.0
    return _lower_tail(-float(beyond.mean()), float(beyond.std(ddof=1)) / sqrt(n), n - 1)


def _lower_tail(distance: float, error: float, freedom: int | None = None) -> float:
    if error < 1e-12:
        return 0.0 if distance < 0 else 1.0
    return float(norm.cdf(distance / error) if freedom is None else student.cdf(distance / error, freedom))
