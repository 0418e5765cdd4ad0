"""A drop in accuracy, its interval and its test, and the interval of a speed-up: all paired over questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

from litestage.stats.bootstrap import interval_of, resampled_sums

Array = np.ndarray[Any, Any]
RESAMPLES = 10_000
_Z95 = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Pairs:
    """Two ways of answering the same questions, counted.

    Attributes:
        lost: questions that only the first answers right.
        gained: questions that only the second answers right.
        n: all questions.
    """

    lost: int
    gained: int
    n: int

    @classmethod
    def of(cls, first: Sequence[bool], second: Sequence[bool]) -> Self:
        pairs = list(zip(first, second, strict=True))
        return cls(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))

    @property
    def drop(self) -> float:
        """The first's accuracy less the second's, as a fraction."""
        return (self.lost - self.gained) / self.n


def accuracy_drop_interval(full: Sequence[bool], method: Sequence[bool]) -> tuple[float, float]:
    """95 % interval of accuracy(full) - accuracy(method), as fractions, over the same questions.

    Tango's score interval (Statistics in Medicine 17, 1998, 891-908): all drops that a score test does not refuse. It
    keeps its width near 0 and 100 %, where a bootstrap of a handful of discordant pairs collapses.
    """
    return pairs_interval(Pairs.of(full, method))


def pairs_interval(pairs: Pairs) -> tuple[float, float]:
    """The same from counts."""

    def beyond(drop: float, limit: float) -> float:
        return float(score(pairs.lost, pairs.gained, pairs.n, drop)) - limit

    low = -1.0 if pairs.gained == pairs.n else brentq(beyond, -1 + 1e-12, pairs.drop, (_Z95,), xtol=1e-9)
    high = 1.0 if pairs.lost == pairs.n else brentq(beyond, pairs.drop, 1 - 1e-12, (-_Z95,), xtol=1e-9)
    return float(low), float(high)


def score(lost: Any, gained: Any, n: int, drop: float) -> Array:
    """Tango's statistic of the hypothesis of this drop, lower where less is lost; of counts, or arrays of them."""
    lost, gained = np.asarray(lost, dtype=float), np.asarray(gained, dtype=float)
    # the likeliest share of gained questions if the drop is this one: the larger root of a quadratic
    linear = (2 * n - lost + gained) * drop - lost - gained
    root = np.sqrt(np.maximum(0.0, linear**2 + 8 * n * gained * drop * (1 - drop)))
    variance = n * ((root - linear) / (2 * n) + drop * (1 - drop))
    return np.asarray((lost - gained - n * drop) / np.sqrt(np.maximum(variance, 1e-300)))


def accuracy_drop_bootstrap(full: Sequence[bool], method: Sequence[bool], seed: int = 0) -> tuple[float, float]:
    """The same interval by a percentile bootstrap over questions; without a discordant pair it has no width."""
    pairs = Pairs.of(full, method)
    shares = [pairs.lost / pairs.n, pairs.gained / pairs.n, 1 - (pairs.lost + pairs.gained) / pairs.n]
    # how often a resample of n questions draws each kind is multinomial, so no question need be drawn
    drawn = np.random.default_rng(seed).multinomial(pairs.n, shares, RESAMPLES)
    return interval_of((drawn[:, 0] - drawn[:, 1]) / pairs.n)


def mcnemar(pairs: Pairs, alternative: str = "two-sided") -> float:
    """P-value of McNemar's test, exact: whether questions are lost as often as gained.

    Args:
        alternative: ``greater`` asks only whether more are lost.
    """
    discordant = pairs.lost + pairs.gained
    return float(binomtest(pairs.lost, discordant, 0.5, alternative).pvalue) if discordant else 1.0


def speedup_interval(full_s: Sequence[float], method_s: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % interval of sum(full_s) / sum(method_s), by a bootstrap that resamples questions with both their times."""
    full, method = resampled_sums(np.array([full_s, method_s]), RESAMPLES, seed)
    return interval_of(full / method)
