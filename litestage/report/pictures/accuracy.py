"""Accuracy against latency: every method with its intervals, and the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestage.report.drawing import Picture, panel, short
from litestage.report.palette import GREY, OURS

_AROUND = ((6, 3, "left"), (6, -9, "left"), (-6, 3, "right"), (-6, -9, "right"), (0, 11, "center"), (0, -17, "center"))
"""Where a label may stand from its point, in points (1/72 inch), nearest first."""


def pareto_front(methods: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The methods that no other beats in both accuracy and mean latency, fastest first."""
    front: list[Mapping[str, Any]] = []
    for method in sorted(methods, key=lambda m: (m["latency_s"]["mean"], -m["accuracy"])):
        if not front or method["accuracy"] > front[-1]["accuracy"]:
            front.append(method)
    return front


def accuracy_against_latency(results: Mapping[str, Any]) -> Picture | None:
    """Every timed method at its mean latency and accuracy; None when nothing was timed."""
    methods = [method for method in results["methods"] if "latency_s" in method]
    if not methods:
        return None
    figure, (axes,) = panel(3.6)
    full, front = methods[0], pareto_front(methods)
    for method in methods:
        colour = OURS if method["name"].startswith("litestage") else GREY
        low, high = _accuracy_interval(full, method)
        fast, slow = _latency_interval(full, method)
        x, y = _point(method)
        axes.errorbar(
            x,
            y,
            xerr=[[max(0.0, x - fast)], [max(0.0, slow - x)]],
            yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
            fmt="o",
            color=colour,
            elinewidth=1,
            capsize=2,
        )
    axes.step(*zip(*map(_point, front), strict=True), where="post", color="#000000", linewidth=1, linestyle=":")
    axes.set_xlabel("milliseconds per question, one at a time", fontsize=9)
    axes.set_ylabel("accuracy, %", fontsize=9)
    axes.margins(x=0.22, y=0.12)
    axes.set_ylim(max(axes.get_ylim()[0], -6), min(axes.get_ylim()[1], 106))  # no accuracy lies outside 0 to 100 %
    _label(figure, axes, methods)
    names = ", ".join(method["name"] for method in front)
    alt = "; ".join("{0}: {2:.1f} % at {1:.0f} ms".format(m["name"], *_point(m)) for m in methods)
    return Picture(
        "accuracy",
        "Accuracy against latency",
        f"Up and to the left is better. Bars are 95 % intervals of the drop and the speed-up against full depth, on "
        f"the same questions. Dotted: the Pareto front ({names}); no other method is both faster and more accurate.",
        f"Scatter plot. {alt}.",
        figure,
    )


def _point(method: Mapping[str, Any]) -> tuple[float, float]:
    return method["latency_s"]["mean"] * 1000, method["accuracy"] * 100


def _accuracy_interval(full: Mapping[str, Any], method: Mapping[str, Any]) -> tuple[float, float]:
    low, high = method["accuracy_drop_ci95"]
    return max(0.0, (full["accuracy"] - high) * 100), min(100.0, (full["accuracy"] - low) * 100)


def _latency_interval(full: Mapping[str, Any], method: Mapping[str, Any]) -> tuple[float, float]:
    """Milliseconds: full depth's mean over the ends of the speed-up's interval."""
    low, high = method["speedup_ci95"]
    return full["latency_s"]["mean"] / high * 1000, full["latency_s"]["mean"] / low * 1000


def _label(figure: Any, axes: Any, methods: Sequence[Mapping[str, Any]]) -> None:
    """Names beside the points, each at the first place where it hides neither a point nor another name."""
    figure.canvas.draw_idle()
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    points = [axes.transData.transform(_point(method)) * scale for method in methods]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for (x, y), method in zip(points, methods, strict=True):
        width = 4.6 * len(short(method["name"]))
        boxes = {}
        for dx, dy, side in _AROUND:
            left = x + dx - {"left": 0, "center": width / 2, "right": width}[side]
            boxes[dx, dy, side] = (left, y + dy - 1, left + width, y + dy + 8)
        best = min(boxes, key=lambda place: sum(_overlap(boxes[place], other) for other in taken))
        taken.append(boxes[best])
        axes.annotate(
            short(method["name"]), _point(method), xytext=best[:2], textcoords="offset points", fontsize=8, ha=best[2]
        )


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)
