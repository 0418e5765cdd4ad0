"""Accuracy against latency: every method with its intervals, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestage.report.answer import chosen
from litestage.report.drawing import Picture, panel, short, within_percent
from litestage.report.palette import GREY, OURS
from litestage.report.pictures.labels import Label, place, write_key

MOST_NAMED = 8
"""With more methods than this, most have a number at their point and their name in a key below."""

FIGURE_SPACE = "\u2007"
"""As wide as a digit."""

Method = Mapping[str, Any]


def pareto_front(methods: Sequence[Method]) -> list[Method]:
    """The methods that no other beats in both accuracy and mean latency, fastest first.

    Another model, retrained, is no plan of this one and takes no part.
    """
    front: list[Method] = []
    for method in sorted(methods, key=lambda m: (m["latency_s"]["mean"], -m["accuracy"])):
        if "model" not in method and (not front or method["accuracy"] > front[-1]["accuracy"]):
            front.append(method)
    return front


def accuracy_against_latency(results: Mapping[str, Any]) -> Picture | None:
    """Every timed method at its mean latency and accuracy; None when nothing was timed."""
    methods = [method for method in results["methods"] if "latency_s" in method]
    if not methods:
        return None
    full, front, best = methods[0], pareto_front(methods), chosen(results)
    apart = [full, *front, *([best] if best else []), *(method for method in methods if "model" in method)]
    numbered = [] if len(methods) <= MOST_NAMED else [method for method in methods if method not in apart]
    figure, (axes,) = panel(3.6)
    for method in methods:
        _draw(axes, full, method, star=method is best, faint=method in numbered)
    axes.step(*zip(*map(_point, front), strict=True), where="post", color="#000000", linewidth=1, linestyle=":")
    axes.set_xlabel("milliseconds per question, one at a time", fontsize=9)
    axes.set_ylabel("accuracy, %", fontsize=9)
    axes.margins(x=0.12 if numbered else 0.22, y=0.14)
    within_percent(axes, 0.14)
    numbers = {method["name"]: str(at) for at, method in enumerate(numbered, 1)}
    labels = [
        Label(numbers.get(method["name"], short(method["name"])), _point(method), _colour(method))
        for method in sorted(methods, key=lambda method: (method is not best, method in numbered))
    ]
    write_key(figure, axes, [(number.rjust(2, FIGURE_SPACE), short(name)) for name, number in numbers.items()])
    place(figure, axes, labels)
    return Picture(
        "accuracy",
        "Accuracy against latency",
        _caption(methods, front, best),
        "Scatter plot. " + "; ".join("{0}: {2:.1f} % at {1:.0f} ms".format(m["name"], *_point(m)) for m in methods),
        figure,
    )


def _draw(axes: Any, full: Method, method: Method, *, star: bool, faint: bool) -> None:
    x, y = _point(method)
    fast, slow = _latency_interval(full, method)
    low, high = accuracy_interval(full, method)
    _, _, bars = axes.errorbar(
        x,
        y,
        xerr=[[max(0.0, x - fast)], [max(0.0, slow - x)]],
        yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
        fmt="*" if star else "o",
        markersize=12 if star else 4 if faint else 6,
        markerfacecolor="none" if "model" in method else _colour(method),
        color=_colour(method),
        elinewidth=0.6 if faint else 1.2,
        zorder=4 if star else 2,
    )
    for bar in bars if faint else ():
        bar.set_alpha(0.45)


def _caption(methods: Sequence[Method], front: Sequence[Method], best: Method | None) -> str:
    names = ", ".join(method["name"] for method in front)
    said = [
        "Up and to the left is better. Bars are 95 % intervals of the drop and the speed-up against full depth, on the "
        f"same questions. Dotted: the Pareto front ({names}); no other method is both faster and more accurate."
    ]
    if best is not None:
        said.append(f"Star: {best['name']}.")
    others = [method["name"] for method in methods if "model" in method]
    if others:
        said.append(f"Hollow: another model ({', '.join(others)}), which no plan can be: not part of the front.")
    return " ".join(said)


def _colour(method: Method) -> str:
    return OURS if method["name"].startswith("litestage") else GREY


def _point(method: Method) -> tuple[float, float]:
    return method["latency_s"]["mean"] * 1000, method["accuracy"] * 100


def accuracy_interval(full: Method, method: Method) -> tuple[float, float]:
    """Per cent: full depth's accuracy less the ends of the drop's interval."""
    low, high = method["accuracy_drop_ci95"]
    return max(0.0, (full["accuracy"] - high) * 100), min(100.0, (full["accuracy"] - low) * 100)


def _latency_interval(full: Method, method: Method) -> tuple[float, float]:
    """Milliseconds: full depth's mean over the ends of the speed-up's interval."""
    low, high = method["speedup_ci95"]
    return full["latency_s"]["mean"] / high * 1000, full["latency_s"]["mean"] / low * 1000
