"""The report's pictures, as SVG text that follows the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

from litestage.search import Candidate, SearchResult


def accuracy_against_latency(results: Mapping[str, Any]) -> str:
    """Every method at its mean latency and accuracy, with the 95 % interval of its drop; empty without latencies."""
    methods = [method for method in results["methods"] if "latency_s" in method]
    if not methods:
        return ""
    figure, axes = _figure(7.2, 4.2)
    full_accuracy = methods[0]["accuracy"]
    placed = sorted(methods, key=lambda method: method["latency_s"]["mean"])
    for rank, method in enumerate(placed):
        x, y = method["latency_s"]["mean"] * 1000, method["accuracy"] * 100
        low, high = ((full_accuracy - drop) * 100 for drop in reversed(method["accuracy_drop_ci95"]))
        ours = method["name"].startswith("litestage")
        axes.errorbar(
            x,
            y,
            yerr=[[max(0.0, y - low)], [max(0.0, high - y)]],
            fmt="o",
            color="#c2410c" if ours else "#64748b",
            capsize=2,
        )
        above = rank % 2 == 0  # neighbours on the latency axis get their labels on opposite sides
        axes.annotate(method["name"], (x, y), textcoords="offset points", xytext=(6, 6 if above else -12), fontsize=9)
    axes.set_xlabel("milliseconds per question, one at a time")
    axes.set_ylabel("accuracy, %")
    axes.margins(x=0.15, y=0.15)
    axes.set_ylim(top=min(axes.get_ylim()[1], 102))  # an interval may reach past 100 %, accuracy can't
    return _svg(figure)


def plans_tried(found: SearchResult) -> str:
    """Every plan of a search over all stages at once: predicted latency against accuracy, hollow if dropped early."""
    figure, axes = _figure(7.2, 3.6)
    every = max(candidate.questions for candidate in found.candidates)
    for candidate in found.candidates:
        colour = "#c2410c" if candidate.verdict == "chosen" else "#64748b"
        fill = colour if candidate.questions == every else "none"
        x, y = candidate.latency_s * 1000, candidate.accuracy * 100
        axes.plot(x, y, "o", color=colour, markerfacecolor=fill)
    axes.set_xlabel("predicted milliseconds per question")
    axes.set_ylabel("accuracy, % of the questions tried")
    axes.margins(x=0.1, y=0.15)
    return _svg(figure)


def search_by_stage(found: SearchResult) -> str:
    """Per stage: every budget tried, its accuracy and predicted latency, the chosen one marked."""
    stages = list(found.full.budgets)
    figure, all_axes = _figure(2.9 * len(stages), 3.2, columns=len(stages))
    for axes, stage in zip(all_axes if len(stages) > 1 else [all_axes], stages, strict=True):
        rows = _along(found, stage)
        budgets = [row.budgets[stage] for row in rows]
        axes.plot(
            budgets, [row.accuracy * 100 for row in rows], "o-", color="#64748b", markersize=3, label="accuracy, %"
        )
        axes.axvline(found.chosen.budgets[stage], color="#c2410c", linestyle="--", linewidth=1)
        twin = axes.twinx()
        twin.plot(budgets, [row.latency_s * 1000 for row in rows], "s-", color="#0f766e", markersize=3)
        twin.tick_params(labelsize=8, colors="#0f766e")
        axes.set_title(stage, fontsize=10)
        axes.set_xlabel("sub-layers skipped", fontsize=8)
    figure.text(
        0.5, -0.02, "grey: accuracy, %     green: predicted ms per question     dashed: chosen", ha="center", fontsize=8
    )
    figure.tight_layout()
    return _svg(figure)


def _along(found: SearchResult, stage: str) -> list[Candidate]:
    """The candidates that differ in this stage's budget only: the largest such group, by budget."""
    groups: dict[tuple[int, ...], list[Candidate]] = {}
    for row in found.candidates:
        others = tuple(budget for name, budget in row.budgets.items() if name != stage)
        groups.setdefault(others, []).append(row)
    largest: list[Candidate] = max(groups.values(), key=len)
    return sorted(largest, key=lambda row: row.budgets[stage])


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.subplots(1, columns)
    for one in axes if columns > 1 else [axes]:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
        one.tick_params(labelsize=8)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an SVG element; black becomes the page's text colour, so that dark mode stays readable."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "litestage"}):
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"(fill|stroke): ?(#000000|black)", r"\1: currentColor", svg)
    svg = re.sub(r"<text ", '<text fill="currentColor" ', svg)
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)
