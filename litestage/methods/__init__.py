"""Methods that make plans at a given budget. Adding one is one file and one line in ``METHODS``.

A method is a function from a :class:`Setting` to each stage's plan. The budget is always a number of *sub-layers*
per stage (2 per layer), so that methods are compared at equal budgets. Of 0 it is full depth, and no other method is
asked.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from litestage.methods.setting import Measurements, Setting
from litestage.plan import StagePlan

METHODS: dict[str, Callable[[Setting], dict[str, StagePlan]]] = {
    name: import_module(f"{__name__}.{name.replace('-', '_')}").plan
    for name in (
        "full",
        "uniform",
        "unifiedskip",
        "unifiedskip-port",
        "skipdecode",
        "skipdecode-port",
        "early-exit",
        "random",
        "cosine",
        "adaskip",
        "adaskip-paper",
        "shortgpt",
        "sleb",
        "finercut",
        "replaceme",
        "ghosted",
        "linearpatch",
        "attention-only",
        "ffn-only",
        "sprint",
        "sprint-bare",
    )
}
"""The ``plan`` of the file of each name."""

__all__ = ["METHODS", "Measurements", "Setting"]
