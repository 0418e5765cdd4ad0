"""Spearman's rank correlation of what was expected of sub-layers with what they did, and how far chance reaches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from litestage.stats.bootstrap import interval_of, resampled_sums

RESAMPLES = 2000


def rank_correlation(
    scores: Sequence[float], hits: Sequence[Sequence[int]], of: Sequence[Sequence[int]]
) -> tuple[float | None, tuple[float, float] | None]:
    """Spearman's rank correlation of scores with damages, and its 95 % bootstrap interval.

    Both sub-layers and questions are drawn anew: which sub-layers a model has is as much chance as what it is asked.

    Args:
        scores: of every sub-layer.
        hits, of: by sub-layer and question, how much was damaged, and of how much [sub-layers, questions].

    Returns:
        None where every sub-layer does the same damage, so that there is nothing to rank.
    """
    score, hit, whole = np.array(scores), np.array(hits, dtype=float), np.array(of, dtype=float)
    rho = _spearman(score[None], (hit.sum(axis=1) / whole.sum(axis=1))[None])[0]
    if np.isnan(rho):
        return None, None
    hits_drawn, whole_drawn = np.split(resampled_sums(np.vstack([hit, whole]), RESAMPLES).T, 2, axis=1)
    damage = hits_drawn / np.maximum(whole_drawn, 1)  # [resamples, sub-layers]
    chosen = np.random.default_rng([0, 1]).integers(0, len(score), damage.shape)
    resampled = _spearman(score[chosen], np.take_along_axis(damage, chosen, axis=1))
    return float(rho), interval_of(resampled, float(rho))


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """By row, of [rows, values] both; not a number where one of them is constant."""
    a, b = (rankdata(values, axis=1) for values in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), spread, out=np.full(len(a), np.nan), where=spread > 0))
