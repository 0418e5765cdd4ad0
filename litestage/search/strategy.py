"""What a way of searching is: which plans it chooses from, how it chooses, and how much it will have answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from litestage.progress import Advance, bar
from litestage.search.calibrated import Calibrated
from litestage.search.candidate import SearchResult
from litestage.search.enough import warn_if_too_few
from litestage.search.ladders import Ladders
from litestage.search.problem import SearchProblem


@dataclass(frozen=True)
class Strategy:
    """A way of searching.

    Attributes:
        ranking: what sub-layers are ranked by unless ``search.ranking`` says: see :class:`Calibrated`.
        ladders: what it chooses from, of what was measured on the calibration questions.
        search: chooses; tells of every plan tried.
        plans: how many plans it tries, about where ``guessed``.
        margin: whether, where nothing certifies, it chooses only a plan that surely keeps the bound.
        passes: for the forecast of a comparison: of so many stages and so large a largest budget, how often it has all
            calibration questions answered, or takes as long as that.
    """

    ranking: str
    ladders: Callable[[Calibrated], Ladders]
    search: Callable[[SearchProblem, Advance], SearchResult]
    plans: Callable[[SearchProblem], int]
    passes: Callable[[int, int], float]
    guessed: bool = False
    margin: bool = True

    def run(self, problem: SearchProblem) -> SearchResult:
        """Searches under a bar that counts the plans tried; says so where too few questions can choose any."""
        warn_if_too_few(problem, self.margin)
        with bar("search: plans tried", self.plans(problem), guessed=self.guessed) as advance:
            return self.search(problem, advance)
