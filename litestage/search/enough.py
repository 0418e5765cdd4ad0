"""Whether there are calibration questions enough to choose any plan but full depth, however well one does."""

from __future__ import annotations

from logging import getLogger

from litestage.search.problem import SearchProblem
from litestage.search.race import fewest
from litestage.search.split import fewest_calibrating


def warn_if_too_few(problem: SearchProblem, margin: bool) -> None:
    """Says so where there are too few for the bound: to be certified, or, where nothing certifies, to be raced.

    Args:
        margin: whether without a certificate only a plan is chosen that surely keeps the bound.
    """
    bound, warn, certifying = problem.bound, getLogger(__name__).warning, problem.bound.fewest
    searched, confirming = len(problem.questions), len(problem.confirm)
    if not confirming:
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
    elif confirming < certifying:
        calibrating = fewest_calibrating(bound) or 0
        enough = searched + confirming >= calibrating  # as where search.confirm says how many confirm
        raised = f"search.calibration to {calibrating} or more, of which {certifying} confirm, in a split that has them"
        warn(
            "To certify at %g %% that a plan %s takes %d confirming questions, even if it loses none, and there are "
            "%d: full depth will be chosen. Raise %s, or search.max_accuracy_drop.",
            *(bound.confidence * 100, bound, certifying, confirming),
            f"search.confirm to {certifying} or more" if enough else raised,
        )
