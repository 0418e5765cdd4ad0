"""A bound on what a plan may lose, and the test that shows on paired answers that it is kept.

*Accuracy.* Of ``n`` questions full depth alone answers ``lost`` right and the plan alone ``gained``; the others say
nothing. The hypothesis is that the plan's true drop, P(lost) - P(gained), is above the bound. The p-value is exact and
unconditional: outcomes are ordered by the score statistic (Tango, Statistics in Medicine 17, 1998, 891-908), and the
probability of one as good as what was seen is the largest over every P(gained), which nobody knows, on the hypothesis'
edge (Hsueh, Liu and Chen, Biometrics 57, 2001, 478-483). With nothing lost or gained it is about
``(1 - bound) ** n``. The score test by the normal distribution would break its level where hardly anything is lost.

*Agreement.* The hypothesis is that more than the bound of all answers, right or wrong, differ from full depth's: a
binomial test. Where it is refused, the drop in accuracy is below the bound too.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from scipy.stats import binom

from litestage.stats.paired import Array, Pairs, score

_POINTS = 50
"""At how many values of P(gained) a probability is looked at, times the square root of the number of questions."""
_EDGE = 1e-9
"""Scores that differ by less are the same."""


@dataclass(frozen=True)
class Bound:
    """What a plan may lose at most, and how sure one must be.

    Attributes:
        most: a fraction of the questions.
        confidence: the least probability that a plan which is passed keeps the bound.
        on: ``accuracy``, or ``agreement``: the share of answers that are not full depth's, right or wrong.
    """

    most: float
    confidence: float = 0.9
    on: str = "accuracy"

    def __str__(self) -> str:
        """What a plan that keeps it does."""
        return self.in_words("loses", "changes")

    def in_words(self, lose: str, change: str) -> str:
        """The same with these words for losing accuracy and for changing answers."""
        share = f"{self.most * 100:g}"
        return f"{lose} at most {share} points" if self.on == "accuracy" else f"{change} at most {share} % of answers"

    @property
    def level(self) -> float:
        """The largest p-value with which a plan is passed."""
        return 1 - self.confidence

    def p_value(self, pairs: Pairs) -> float:
        """How likely so little would be lost if the bound were broken; for agreement ``lost`` counts other answers."""
        if not 0 < self.most < 1:
            return float(self.most <= 0)
        if self.on == "agreement":
            return float(binom.cdf(pairs.lost, pairs.n, self.most))
        return _p_value(pairs.lost, pairs.gained, pairs.n, self.most)

    def passes(self, pairs: Pairs) -> bool:
        return self.p_value(pairs) <= self.level

    def most_lost(self, n: int) -> Array:
        """[n + 1]: by how many of n questions are gained, how many may be lost for the plan to pass; -1: not even 0."""
        if not 0 < self.most < 1:
            return np.full(n + 1, -1 if self.most <= 0 else n)
        if self.on == "agreement":
            return np.full(n + 1, np.searchsorted(binom.cdf(np.arange(n + 1), n, self.most), self.level, "right") - 1)
        return _critical(n, self.most, self.level)

    @property
    def fewest(self) -> int | None:
        """How many questions it takes until a plan that loses and gains none passes; None if no number does."""
        if not 0 < self.most < 1:
            return None if self.most <= 0 else 1
        n = max(1, int(np.log(self.level) / np.log1p(-self.most)))
        while not self.passes(Pairs(0, 0, n)):
            n += 1
        return n

    def enough(self, n: int) -> int:
        """The fewest questions of which a plan that gains none may lose as many as of ``n``; n where it may lose none.

        What may be lost grows in steps: 1 of 194 or of 256 questions for 2 points at 0.9. Questions between two steps
        only make it likelier that a good plan loses one more.
        """
        if not 0 < self.most < 1 or (1 - self.most) ** n > self.level:
            return n
        lost = int(np.searchsorted(binom.cdf(np.arange(n + 1), n, self.most), self.level, "right")) - 1
        first = bisect_left(range(n), True, key=lambda fewer: binom.cdf(lost, fewer, self.most) <= self.level)
        return next((fewer for fewer in range(first, n) if self.passes(Pairs(lost, 0, fewer))), n)


def _region(highest: float, n: int, bound: float) -> Array:
    """[n + 1]: by what is gained, the most lost whose score is not above ``highest``; more gained never allows less."""
    gained = np.arange(n + 1)
    low, high = np.full(n + 1, -1), n - gained
    while np.any(low < high):
        middle = (low + high + 1) // 2
        within = score(middle, gained, n, bound) <= highest
        low, high = np.where(within, middle, low), np.where(within, high, middle - 1)
    return np.asarray(np.maximum.accumulate(low))


def _largest_chance(region: Array, bound: float) -> float:
    """The region's largest probability over all P(gained), where P(lost) is that and the bound.

    At points so close (a fiftieth of what moves the outcomes by their spread) that what lies between is no more than
    1e-5 likelier.
    """
    n = len(region) - 1
    gained = np.linspace(0, sqrt((1 - bound) / 2), max(64, round(_POINTS * sqrt(n)))) ** 2
    return max(float(_chance(region, part + bound, part).max()) for part in np.array_split(gained, len(gained) // 32))


def _chance(region: Array, lost: Array, gained: Array) -> Array:
    """The region's probability at each pair of probabilities to lose and to gain a question."""
    n = len(region) - 1
    reach = 7 * np.sqrt(n * gained * (1 - gained)) + 12  # what lies further out is less likely than 1e-11
    first = np.maximum(0, np.floor(n * gained - reach)).astype(int)
    last = np.minimum(n, np.ceil(n * gained + reach)).astype(int)
    count = first[:, None] + np.arange(int((last - first).max()) + 1)
    there, count = count <= last[:, None], np.minimum(count, n)
    share = np.minimum(1.0, lost / (1 - gained))[:, None]
    most = region[count]
    inside = np.where(most >= 0, binom.cdf(most, n - count, share), 0.0)
    return np.asarray((there * binom.pmf(count, n, gained[:, None]) * inside).sum(axis=1))


@lru_cache(maxsize=4096)
def _p_value(lost: int, gained: int, n: int, bound: float) -> float:
    seen = float(score(lost, gained, n, bound))
    return min(1.0, _largest_chance(_region(seen + _EDGE, n, bound), bound))


@lru_cache(maxsize=256)
def _critical(n: int, bound: float, level: float) -> Array:
    """The largest region by score whose probability stays within the level."""
    low, high = float(score(0, n, n, bound)) - 1.0, 0.0  # the first holds nothing
    while high - low > _EDGE * (1 + abs(low)) * 1e3:
        middle = (low + high) / 2
        if _largest_chance(_region(middle, n, bound), bound) <= level:
            low = middle
        else:
            high = middle
    return _region(low, n, bound)
