"""Methods that make plans at a given budget. Adding one is one file and one line in ``METHODS``.

A method is a function from a :class:`Setting` to each stage's plan. The budget is always a number of *sub-layers*
per stage (2 per layer), so that methods are compared at equal budgets.
"""

from __future__ import annotations

from collections.abc import Callable

from litestage.methods import (
    adaskip,
    adaskip_paper,
    attention_only,
    cosine,
    early_exit,
    ffn_only,
    finercut,
    full,
    ghosted,
    linearpatch,
    random,
    replaceme,
    shortgpt,
    skipdecode,
    skipdecode_port,
    sleb,
    sprint,
    sprint_bare,
    unifiedskip,
    unifiedskip_port,
    uniform,
)
from litestage.methods.setting import Measurements, Setting
from litestage.plan import StagePlan

METHODS: dict[str, Callable[[Setting], dict[str, StagePlan]]] = {
    "full": full.plan,
    "uniform": uniform.plan,
    "unifiedskip": unifiedskip.plan,
    "unifiedskip-port": unifiedskip_port.plan,
    "skipdecode": skipdecode.plan,
    "skipdecode-port": skipdecode_port.plan,
    "early-exit": early_exit.plan,
    "random": random.plan,
    "cosine": cosine.plan,
    "adaskip": adaskip.plan,
    "adaskip-paper": adaskip_paper.plan,
    "shortgpt": shortgpt.plan,
    "sleb": sleb.plan,
    "finercut": finercut.plan,
    "replaceme": replaceme.plan,
    "ghosted": ghosted.plan,
    "linearpatch": linearpatch.plan,
    "attention-only": attention_only.plan,
    "ffn-only": ffn_only.plan,
    "sprint": sprint.plan,
    "sprint-bare": sprint_bare.plan,
}

__all__ = ["METHODS", "Measurements", "Setting"]
