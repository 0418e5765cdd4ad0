"""What a way of searching is: which plans it chooses from, how it chooses, and how much it will have answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from litestage.progress import bar
from litestage.search.calibrated import Calibrated
from litestage.search.candidate import SearchResult
from litestage.search.ladders import Ladders
from litestage.search.problem import SearchProblem

Advance = Callable[[str], None]
"""Told of every plan tried, with a line that says what became of it."""


def unheard(message: str) -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class Strategy:
    """A way of searching.

    Attributes:
        ranking: what sub-layers are ranked by unless ``search.ranking`` says: see :class:`Calibrated`.
        ladders: what it chooses from, of what was measured on the calibration questions.
        search: chooses.
        plans: how many plans it tries, about where ``guessed``.
        passes: for the forecast of a comparison: of so many stages and so large a largest budget, how often it has all
            calibration questions answered, or takes as long as that.
    """

    ranking: str
    ladders: Callable[[Calibrated], Ladders]
    search: Callable[[SearchProblem, Advance], SearchResult]
    plans: Callable[[SearchProblem], int]
    passes: Callable[[int, int], float]
    guessed: bool = False

    def run(self, problem: SearchProblem) -> SearchResult:
        """Searches under a bar that counts the plans tried."""
        with bar("search: plans tried", self.plans(problem), guessed=self.guessed) as advance:
            return self.search(problem, lambda message: advance(1))
