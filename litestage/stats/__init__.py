"""Statistics: every comparison is question by question against full depth."""

from litestage.stats.averages import over_independent, over_the_same
from litestage.stats.bound import Bound
from litestage.stats.many import ALPHA, POWER, holm, minimum_detectable_drop
from litestage.stats.paired import (
    Pairs,
    accuracy_drop_bootstrap,
    accuracy_drop_interval,
    mcnemar,
    pairs_interval,
    speedup_interval,
)
from litestage.stats.proportion import agreement, wilson_interval

__all__ = [
    "ALPHA",
    "POWER",
    "Bound",
    "Pairs",
    "accuracy_drop_bootstrap",
    "accuracy_drop_interval",
    "agreement",
    "holm",
    "mcnemar",
    "minimum_detectable_drop",
    "over_independent",
    "over_the_same",
    "pairs_interval",
    "speedup_interval",
    "wilson_interval",
]
