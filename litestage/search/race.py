"""Racing: a candidate is tried on growing parts of the calibration questions and dropped once it is hopeless.

Against full depth, question by question: ``lost`` questions were right at full depth only and ``gained``
right under the candidate only. It is dropped when its drop in accuracy is above the bound with error level 5 %
(one-sided, normal approximation of the paired difference). After a few questions it is dropped too when full depth is
faster on these beyond reasonable doubt: a plan that rambles takes longest to try.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt
from statistics import fmean, stdev

from litestage.stats import Pairs

_Z = 1.6449  # one-sided 5 %
Z90 = 1.2816  # one-sided 10 %
FEW = 16
"""How many questions show whether a candidate is slower than full depth, before it is asked more."""
ASKED = 0.6
"""The share of the questions that a candidate is asked, about: most are dropped early."""


class Standing(Pairs):
    """Where a candidate stands after some of the questions, beside full depth."""

    @property
    def upper(self) -> float:
        """The drop's one-sided 90 % upper limit.

        One discordant pair is added, so that none at all is not taken for certainty.
        """
        return min(1.0, self.drop + Z90 * sqrt(self.lost + self.gained + 1) / self.n)

    def within(self, bound: float, sure: bool = True) -> bool:
        """Whether the drop's one-sided 90 % upper limit stays within ``bound``; not to be ``sure``, the drop itself.

        The search keeps the luckiest of many plans: one that only just met the bound here would often break it later.
        """
        return (self.upper if sure else self.drop) <= bound + 1e-12

    def hopeless(self, bound: float) -> bool:
        """Whether the drop is above ``bound`` beyond reasonable doubt."""
        # one discordant pair is added to each side: with few pairs the plain variance is too sure of itself
        lost, gained, n = self.lost + 1, self.gained + 1, self.n + 2
        spread = sqrt(max(lost + gained - (lost - gained) ** 2 / n, 0.0)) / n
        return (lost - gained) / n - _Z * spread > bound


def surely_slower(seconds: Sequence[float], full: Sequence[float]) -> bool:
    """Whether full depth takes less of the same questions' seconds, on average, beyond reasonable doubt."""
    more = [plan - beside for plan, beside in zip(seconds, full, strict=True)]
    return len(more) > 1 and fmean(more) > _Z * stdev(more) / sqrt(len(more))


def looks(questions: int) -> list[int]:
    """How many questions are tried before each look: 48, 144, 432, ... and all."""
    counts, look = [], 48
    while look < questions:
        counts.append(look)
        look *= 3
    return [*counts, questions]


def fewest(bound: float) -> float:
    """How many questions it takes until a plan that loses none is within ``bound``; infinite for a bound of 0."""
    return ceil(Z90 / bound) if bound > 0 else float("inf")
