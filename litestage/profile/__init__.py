"""Measures what the methods and the search decide on: sub-layer importance and step costs."""

from litestage.profile.costs import StandInCosts, StepCosts
from litestage.profile.importance import Importance, measure_importance
from litestage.profile.step_times import measure_stand_in, measure_step_costs, measure_token_share

__all__ = [
    "Importance",
    "StandInCosts",
    "StepCosts",
    "measure_importance",
    "measure_stand_in",
    "measure_step_costs",
    "measure_token_share",
]
