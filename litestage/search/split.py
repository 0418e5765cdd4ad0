"""Which of the calibration questions are searched on, and how many confirm what the search found."""

from __future__ import annotations

from math import ceil

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
