"""Checks of options that several experiments have; what does not fit is one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from litestage.errors import LiteStageError, all_known, at_least
from litestage.methods.shorthand import parted
from litestage.session.workbench import Workbench


def sublayer_budgets(bench: Workbench, budgets: Sequence[int]) -> None:
    """Raises LiteStageError for no budgets, one below 1, or one above the model's number of sub-layers."""
    some(budgets=budgets)
    at_least(1, budgets=min(budgets))
    most = 2 * bench.session.engine.decoder.layers
    if max(budgets) > most:
        raise LiteStageError(f"budgets has {max(budgets)}, but the model has {most} sub-layers; give less.")


def some(known: Iterable[str] = (), **lists: Sequence[object]) -> None:
    """Raises LiteStageError for a list that is empty, has a value twice or, given ``known`` ones, another.

    A value twice would count twice in what is said.
    """
    names = list(known)
    for option, values in lists.items():
        if not values:
            choice = f"some of {', '.join(names)}" if names else "at least one"
            raise LiteStageError(f"{option} is empty; give {choice}.")
        if names:
            all_known(f"{option} has the unknown", values, names)
        twice = next((value for at, value in enumerate(values) if value in values[:at]), None)
        if twice is not None:
            raise LiteStageError(f"{option} has {twice!r} twice; give each once.")


def without_exit(plans: Iterable[str]) -> None:
    """Raises LiteStageError for a plan with a suffix that is to be tried."""
    for spec in plans:
        if "exit" in parted(spec)[1]:
            raise LiteStageError(f"The plan {spec!r} has '+exit'; every exit rule is tried, so leave it out.")
