"""Measures what the methods and the search decide on: sub-layer importance and step costs."""

from litestage.profile.costs import StepCosts, measure_step_costs
from litestage.profile.importance import Importance, measure_importance

__all__ = ["Importance", "StepCosts", "measure_importance", "measure_step_costs"]
