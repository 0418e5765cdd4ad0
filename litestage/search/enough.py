"""How many calibration questions confirm what a search finds, and whether there are enough to choose any plan."""

from __future__ import annotations

from logging import getLogger
from math import ceil

from litestage.search.problem import SearchProblem
from litestage.search.race import fewest
from litestage.stats import Bound

LARGEST_SHARE = 0.8
"""Of the calibration questions, the most that confirm. To search takes fewer than to certify: several plans are walked,
so it is worth more to see what each truly loses than to have chosen them well."""


def confirming(questions: int, bound: Bound) -> int:
    """How many of so many calibration questions confirm, unless the command says: a step of what may be lost."""
    return bound.enough(int(LARGEST_SHARE * questions))


def fewest_calibrating(bound: Bound) -> int | None:
    """How many calibration questions it takes until a plan that loses and gains none is certified; None: no number."""
    return None if bound.fewest is None else ceil(bound.fewest / LARGEST_SHARE)


def warn_if_too_few(problem: SearchProblem, margin: bool) -> None:
    """Says so where there are too few for the bound: to be certified, or, where nothing certifies, to be raced.

    Args:
        margin: whether without a certificate only a plan is chosen that surely keeps the bound.
    """
    bound, warn, certifying = problem.bound, getLogger(__name__).warning, problem.bound.fewest
    searched, kept = len(problem.questions), len(problem.confirm)
    if not kept:
        needed = fewest(bound.most)
        if searched < needed:
            more = f"search.calibration to {needed} or more, or " if bound.most > 0 else ""
            warn(
                "%d calibration questions cannot show that a plan %s, not even one that loses none: %s. Raise "
                "%ssearch.max_accuracy_drop.",
                *(searched, bound),
                *("full depth will be chosen" if margin else "the plan chosen may lose more", more),
            )
    elif certifying is None:
        warn("No number of questions certifies a bound of %g: full depth will be chosen.", bound.most)
    elif kept < certifying:
        calibrating = fewest_calibrating(bound) or 0
        enough = searched + kept >= calibrating  # as where search.confirm says how many confirm
        raised = f"search.calibration to {calibrating} or more, of which {certifying} confirm, in a split that has them"
        warn(
            "To certify at %g %% that a plan %s takes %d confirming questions, even if it loses none, and there are "
            "%d: full depth will be chosen. Raise %s, or search.max_accuracy_drop.",
            *(bound.confidence * 100, bound, certifying, kept),
            f"search.confirm to {certifying} or more" if enough else raised,
        )
