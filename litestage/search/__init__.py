"""Chooses budgets: per stage how many sub-layers to skip, for the lowest latency within an accuracy bound.

Adding a strategy is one file here, with a ``STRATEGY``, and its name in ``STRATEGIES``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litestage.search.strategy import Strategy

STRATEGIES = ("greedy", "pareto", "one_budget")
"""The ways of searching, each by the name of its file: options are checked against these before PyTorch is imported."""


def find_strategy(name: str) -> Strategy:
    """The strategy of this name."""
    return import_module(f"{__name__}.{name}").STRATEGY
