"""Methods that make plans at a given budget. Adding one is one file and one line in ``METHODS``.

A method is a function from a :class:`Setting` to each stage's plan. The budget is always a number of *sub-layers*
per stage (2 per layer), so that methods are compared at equal budgets.
"""

from __future__ import annotations

from collections.abc import Callable

from litestage.methods import adaskip, cosine, full, random, uniform
from litestage.methods.setting import Setting
from litestage.plan import StagePlan

METHODS: dict[str, Callable[[Setting], dict[str, StagePlan]]] = {
    "full": full.plan,
    "uniform": uniform.plan,
    "random": random.plan,
    "cosine": cosine.plan,
    "adaskip": adaskip.plan,
}

__all__ = ["METHODS", "Setting"]
