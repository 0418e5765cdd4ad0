"""Whether there are calibration questions enough to choose any plan but full depth, however well one does."""

from __future__ import annotations

from logging import getLogger

from litestage.search.problem import SearchProblem
from litestage.search.race import fewest
from litestage.search.split import fewest_calibrating


def warn_if_too_few(problem: SearchProblem) -> None:
    """Says so where there are too few for the bound: to be certified, or, where nothing certifies, to be raced."""
    bound, warn, certifying = problem.max_accuracy_drop, getLogger(__name__).warning, problem.bound.fewest
    if not problem.confirm:
        questions, needed = len(problem.questions), fewest(bound)
        if questions < needed:
            more = f"search.calibration to {needed} or more, or " if bound > 0 else ""
            warn(
                "%d calibration questions cannot show that a plan loses at most %g points, not even one that loses "
                "none: full depth will be chosen. Raise %ssearch.max_accuracy_drop.",
                *(questions, bound * 100, more),
            )
    elif certifying is None:
        warn("No number of questions certifies a bound of %g: full depth will be chosen.", bound)
    elif len(problem.confirm) < certifying:
        warn(
            "To certify at %g %% that a plan loses at most %g points takes %d confirming questions, even if it "
            "loses none, and there are %d: full depth will be chosen. Raise search.calibration to %d or more, of "
            "which %d confirm, or search.max_accuracy_drop.",
            *(problem.confidence * 100, bound * 100, certifying, len(problem.confirm)),
            *(fewest_calibrating(problem.bound), certifying),
        )
