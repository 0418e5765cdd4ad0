"""The search: every plan tried, its accuracy and predicted latency; and per stage, against the stage's budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from litestage.report.drawing import Picture, panel, short, within_percent
from litestage.report.palette import GREY, OURS, SERIES

Candidate = Mapping[str, Any]
Axis = Callable[[Candidate], float]


def search_pictures(search: Mapping[str, Any]) -> list[Picture]:
    """From search.json's content: one picture over all stages, then one for each stage."""
    candidates = [search["full"], *search["candidates"]]
    most = max(candidate["questions"] for candidate in candidates)
    overall = _overall(search, candidates, most)
    stages = list(search["full"]["budgets"])
    return [overall, *(_of_stage(search, candidates, most, index, stage) for index, stage in enumerate(stages))]


def _overall(search: Mapping[str, Any], candidates: Sequence[Candidate], most: int) -> Picture:
    figure, (axes,) = panel(3.2)
    _points(axes, candidates, most, lambda c: c["latency_s"] * 1000, _accuracy, GREY)
    chosen, full = search["chosen"], search["full"]
    x, y = chosen["latency_s"] * 1000, chosen["accuracy"] * 100
    axes.plot(x, y, "*", color=OURS, markersize=13, zorder=4)
    axes.annotate("chosen", (x, y), xytext=(8, -10), textcoords="offset points", fontsize=8)
    axes.plot(full["latency_s"] * 1000, full["accuracy"] * 100, "s", color="#000000", markersize=5, zorder=3)
    axes.annotate(
        "full depth",
        (full["latency_s"] * 1000, full["accuracy"] * 100),
        xytext=(-4, 7),
        textcoords="offset points",
        fontsize=8,
        ha="right",
    )
    axes.set_xlabel("predicted milliseconds per question", fontsize=9)
    axes.set_ylabel("accuracy, % of the questions tried", fontsize=9)
    axes.margins(0.12)
    within_percent(axes)
    return Picture(
        "search",
        "Every plan that was tried",
        "On the calibration questions. Hollow: dropped before all questions were asked. Star: chosen.",
        f"Scatter plot of {len(search['candidates'])} plans. Full depth: {full['accuracy']:.1%} at "
        f"{full['latency_s'] * 1000:.0f} ms; chosen: {chosen['accuracy']:.1%} at {x:.0f} ms.",
        figure,
    )


def _of_stage(search: Mapping[str, Any], candidates: Sequence[Candidate], most: int, index: int, stage: str) -> Picture:
    figure, (above, below) = panel(3.6, rows=2)
    hue = SERIES[(index + 1) % len(SERIES)]
    chosen = search["chosen"]
    budget = chosen["budgets"][stage]
    alone = _along(candidates, stage)
    for axes, value in ((above, _accuracy), (below, lambda c: c["stage_latency_s"][stage] * 1000)):
        if len(alone) > 2:
            axes.plot([c["budgets"][stage] for c in alone], [value(c) for c in alone], color=hue, linewidth=1)
        _points(axes, candidates, most, lambda c: c["budgets"][stage], value, hue)
        axes.plot(budget, value(chosen), "*", color=OURS, markersize=13, zorder=4)
        axes.axvline(budget, color=OURS, linestyle="--", linewidth=1)
        axes.margins(0.06, 0.14)
    within_percent(above)
    above.set_ylabel("accuracy, %", fontsize=9)
    below.set_ylabel(f"{short(stage)}, ms", fontsize=9)
    below.set_xlabel(f"sub-layers skipped in {short(stage)}", fontsize=9)
    tried = sorted({candidate["budgets"][stage] for candidate in candidates})
    return Picture(
        f"search-stage-{index + 1}",
        f"The search in stage {stage}",
        f"Accuracy of the whole answer, and the stage's own predicted time, against how many of its sub-layers are "
        f"skipped; {budget} were chosen (star). A line joins plans that skip as many in other stages, with the same "
        f"exit rule and the same stand-ins there.",
        f"Two scatter plots over budgets {tried[0]} to {tried[-1]} of {stage}; chosen {budget}, predicted "
        f"{chosen['stage_latency_s'][stage] * 1000:.1f} ms instead of "
        f"{search['full']['stage_latency_s'][stage] * 1000:.1f} ms.",
        figure,
    )


def _accuracy(candidate: Candidate) -> float:
    return candidate["accuracy"] * 100


def _points(axes: Any, candidates: Sequence[Candidate], most: int, x: Axis, y: Axis, colour: str) -> None:
    """Filled where all questions were asked, hollow where the plan was dropped before."""
    for whole in (True, False):
        some = [candidate for candidate in candidates if (candidate["questions"] == most) is whole]
        axes.plot(
            [x(candidate) for candidate in some],
            [y(candidate) for candidate in some],
            "o",
            color=colour,
            markerfacecolor=colour if whole else "none",
            markersize=4,
        )


def _along(candidates: Sequence[Candidate], stage: str) -> list[Candidate]:
    """The plans that are the same elsewhere, by this stage's budget: the largest such group, of a budget the first."""
    groups: dict[str, dict[int, Candidate]] = {}
    for candidate in candidates:
        parts = candidate["budgets"], candidate.get("compensation") or {}
        elsewhere = [{name: value for name, value in part.items() if name != stage} for part in parts]
        same = json.dumps([*elsewhere, candidate.get("exit")], sort_keys=True)
        groups.setdefault(same, {}).setdefault(candidate["budgets"][stage], candidate)
    largest = max(groups.values(), key=len)
    return [largest[budget] for budget in sorted(largest)]
