"""The bootstrap: questions, or repeats, drawn with replacement, what belongs to one of them always together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

_DRAWN = 500_000  # questions at a time, over all resamples: some 10 MB


def resampled_sums(values: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Sums [rows, resamples] of ``values`` [rows, questions] over questions drawn with replacement, some at a time."""
    generator, questions = np.random.default_rng(seed), values.shape[1]
    most = max(1, _DRAWN // questions)
    sums = []
    for done in range(0, resamples, most):
        size = min(most, resamples - done)
        drawn = generator.integers(0, questions, (size, questions)) + questions * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * questions).reshape(size, questions)
        sums.append(values @ times.T.astype(float))
    return np.concatenate(sums, axis=1)


def interval_of(resampled: np.ndarray, value: float | None = None) -> tuple[float, float]:
    """The 95 % percentile interval, made wider where it would not hold the ``value`` that was seen.

    Resamples of which nothing can be said (not a number) are left out.
    """
    low, high = np.nanpercentile(resampled, [2.5, 97.5]).tolist()
    return (low, high) if value is None else (min(low, value), max(high, value))


def median_interval(values: ArrayLike) -> tuple[float, tuple[float, float]]:
    """The median of independent values, and its 95 % interval."""
    found = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(0).integers(0, len(found), (2000, len(found)))
    return float(np.median(found)), interval_of(np.median(found[drawn], axis=1))
