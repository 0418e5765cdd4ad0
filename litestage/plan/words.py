"""What a plan does, in words: for tables, notes and answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestage.plan.certificate import Certificate
from litestage.plan.exit import ExitRule

Exit = Mapping[str, Any] | None
"""An exit rule as plain data: ``rule`` and its parameters."""
NO_DRAFTS = "none stayed, as no stage was faster by the clock with them (a stage with a schedule has none)"
"""Said of a plan that drafts were asked of and that has none."""


def what_it_does(budgets: Mapping[str, float], exit: Exit) -> str:
    """``skips 3 sub-layers in recall, 0 in analyze``, and how it ends a stage, if it does: what follows "it"."""
    said = []
    if any(budgets.values()):
        (first, most), *others = budgets.items()
        stages = [
            f"{most:g} sub-layer{'' if most == 1 else 's'} in {first}",
            *(f"{n:g} in {name}" for name, n in others),
        ]
        said.append(f"skips {', '.join(stages)}")
    if exit is not None:
        ends = f"ends a stage early (exit rule: {ExitRule(**exit)})"
        said.append(ends if said else f"skips nothing and {ends}")
    return " and ".join(said) or "is full depth"


def certified(method: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    """A table's cell: the bound and confidence that a row's plan is certified at; ``no``; empty where nobody looked.

    What has nothing to lose needs no certificate: full depth, and ways of computing the same text faster, with the
    share of questions that had it where that is not all of them.
    """
    if "certified" not in method:
        return ""
    if certificate := method.get("certificate"):
        return Certificate(**certificate).short + (", beside its own full depth" if method.get("model") else "")
    if "same_text" in method:
        return "same text" if method["same_text"] == 1 else f"{method['same_text']:.1%} same text"
    return "full depth" if method["plan"] == full["plan"] and not method.get("model") else "no"


def exit_in_short(exit: Exit) -> str:
    """`` +exit``, with the rule, behind a plan's budgets; empty without one."""
    return "" if exit is None else f" +exit {ExitRule(**exit)}"
