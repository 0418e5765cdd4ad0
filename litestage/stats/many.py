"""Looking at many figures at once, and at how small a drop can be seen at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

Key = TypeVar("Key")

POWER = 0.8
ALPHA = 0.05


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Adjusted p-values: with probability at most ``a`` is one of a true null hypothesis below ``a``, of however many.

    Holm's step-down (Scandinavian Journal of Statistics 6, 1979): the smallest of m times m, the next times m - 1, ...
    """
    adjusted: dict[Key, float] = {}
    largest = 0.0
    for rank, key in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        largest = max(largest, min(1.0, p_values[key] * (len(p_values) - rank)))
        adjusted[key] = largest
    return {key: adjusted[key] for key in p_values}


def minimum_detectable_drop(n: int, gained: float = 0.0) -> float:
    """The smallest true drop in accuracy that the exact two-sided McNemar test finds at n questions with ``POWER``.

    Args:
        gained: share of all questions that the method answers right and full depth does not.

    Returns:
        A fraction; the largest drop there can be, ``1 - 2 * gained``, where n is too small to find any so often, which
        is 0 where more than half is gained.
    """
    discordant = np.arange(n + 1)
    # of so many discordant questions, how many must be lost for the test to refuse
    needed = discordant - binom.ppf(ALPHA / 2, discordant, 0.5) + 1
    most = 1.0 - 2 * gained
    if most <= 0:
        return 0.0

    def found(drop: float) -> float:
        share = drop + 2 * gained
        lost = (drop + gained) / share if share else 0.0
        return float(np.sum(binom.pmf(discordant, n, share) * binom.sf(needed - 1, discordant, lost)))

    return float(brentq(lambda drop: found(drop) - POWER, 1e-9, most, xtol=1e-7)) if found(most) > POWER else most
