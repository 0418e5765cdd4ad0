"""Accuracy and time against the budget, for methods that were compared at several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestage.report.drawing import Picture, legend_above, panel, short, within_percent
from litestage.report.palette import SERIES
from litestage.report.pictures.accuracy import accuracy_interval

Method = Mapping[str, Any]


def over_budgets(results: Mapping[str, Any]) -> Picture | None:
    """One line per method over its budgets, from full depth on; None where no method stands at two or more."""
    full, curves = results["methods"][0], _curves(results["methods"])
    if not curves:
        return None
    timed = all("latency_s" in method for methods in (*curves.values(), [full]) for method in methods)
    figure, axes = panel(3.8 if timed else 2.6, rows=2 if timed else 1)
    for index, (name, methods) in enumerate(curves.items()):
        colour = SERIES[(index + 1) % len(SERIES)]
        budgets = [0, *(method["budget"] for method in methods)]
        for one, value in zip(axes, (_accuracy, _milliseconds), strict=False):
            heights = [value(method) for method in (full, *methods)]
            one.plot(budgets, heights, "o-", color=colour, markersize=4, linewidth=1.2, label=short(name))
        lows, highs = zip(*(accuracy_interval(full, method) for method in methods), strict=True)
        axes[0].fill_between(budgets[1:], lows, highs, color=colour, alpha=0.12, linewidth=0)
    axes[0].set_ylabel("accuracy, %", fontsize=9)
    within_percent(axes[0])
    legend_above(axes[0])
    if timed:
        axes[1].set_ylabel("ms a question", fontsize=9)
        axes[1].set_ylim(bottom=0)
    axes[-1].set_xlabel("sub-layers skipped in each stage", fontsize=9)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    return Picture(
        "budgets",
        "Accuracy and time over budgets" if timed else "Accuracy over budgets",
        "Every method from full depth, at 0, to its largest budget. Bands are 95 % intervals of the drop against full "
        "depth, on the same questions. A line that goes up in time skips sub-layers and yet is slower.",
        "Lines over budgets. " + " ".join(f"{name}: {_said(methods)}." for name, methods in curves.items()),
        figure,
    )


def _curves(methods: Sequence[Method]) -> dict[str, list[Method]]:
    """By method, its entries in the order of their budgets."""
    curves: dict[str, list[Method]] = {}
    for method in methods:
        if method.get("budget", 0) > 0:
            curves.setdefault(method["method"], []).append(method)
    return {
        name: sorted(found, key=lambda method: method["budget"])
        for name, found in curves.items()
        if len({method["budget"] for method in found}) > 1
    }


def _accuracy(method: Method) -> float:
    return float(method["accuracy"] * 100)


def _milliseconds(method: Method) -> float:
    return float(method["latency_s"]["mean"] * 1000)


def _said(methods: Sequence[Method]) -> str:
    return ", ".join(
        f"{_accuracy(method):.1f} %"
        + (f" and {_milliseconds(method):.0f} ms" if "latency_s" in method else "")
        + f" at {method['budget']}"
        for method in methods
    )
