"""Confidence along the generation, stage by stage, with the points at which the exit rule ended rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor
from statistics import fmean
from typing import Any

from litestage.report.drawing import Picture, legend_above, panel, short
from litestage.report.palette import GREY, OURS, SERIES

MOST_METHODS = 6
LEAST_ROWS = 3
"""A mean over fewer rows that are still running is a row's own zigzag, and not drawn."""

Rows = Sequence[Mapping[str, Any]]


def along_the_generation(traces: Rows) -> list[Picture]:
    """One picture per stage from the lines of traces.jsonl; none where no confidences were kept."""
    if not traces:
        return []
    methods = _shown(traces)
    stages = [stage["name"] for stage in traces[0]["traces"][methods[0]]["stages"]]
    made = [_of_stage(traces, methods, index, stage) for index, stage in enumerate(stages)]
    return [picture for picture in made if picture is not None]


def _shown(traces: Rows) -> list[str]:
    """Full depth, what is ours, then the others, as many as can be told apart; not what would be drawn over another."""
    methods = sorted(traces[0]["traces"], key=lambda name: (name != "full", not name.startswith("litestage")))
    shown: list[str] = []
    known: list[Any] = []
    for method in methods:
        drawn = [[stage.get("confidences") for stage in trace["traces"][method]["stages"]] for trace in traces]
        if drawn not in known:
            shown.append(method)
            known.append(drawn)
    return shown[:MOST_METHODS]


def _of_stage(traces: Rows, methods: Sequence[str], index: int, stage: str) -> Picture | None:
    figure, (axes,) = panel(3.0)
    colours = [OURS, *SERIES[1:]]
    said, longest, lowest = [], 0, 1.0
    for method in methods:
        found = [trace["traces"][method]["stages"][index] for trace in traces]
        rows = [row for at in found for row in at.get("confidences") or ()]
        curve = mean_by_step(rows)
        if not curve:
            continue
        colour = GREY if method == "full" else colours.pop(0)
        axes.plot(range(1, len(curve) + 1), curve, color=colour, linewidth=1.4, label=short(method))
        exits = [
            (len(row), row[-1])
            for at in found
            for row, stop in zip(at.get("confidences") or (), at["stops"], strict=False)
            if stop == "exit" and row
        ]
        if exits:
            axes.plot(*zip(*exits, strict=True), "v", color=colour, markersize=5)
        longest = max(longest, len(curve))
        lowest = min([lowest, *curve, *(height for _, height in exits)])
        said.append(f"{method}: mean {fmean(value for row in rows for value in row):.2f}, {len(exits)} rows cut")
    if not said:
        return None
    bottom = max(0.0, floor(lowest * 10 - 1) / 10)
    axes.set_ylim(bottom, 1 + 0.04 * (1 - bottom))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("new token", fontsize=9)
    axes.set_ylabel("confidence", fontsize=9)
    legend_above(axes)
    return Picture(
        f"confidence-stage-{index + 1}",
        f"Confidence in stage {stage}",
        f"Largest softmax probability at each new token, the mean of the rows that are still running (at least "
        f"{LEAST_ROWS}), over the {len(traces)} sampled questions. A triangle is a row that the exit rule ended. "
        f"Methods with the same confidences as another are not drawn twice."
        if index == 0
        else "Read as in the first stage's picture.",
        f"Lines over {longest} tokens of {stage}. {'; '.join(said)}.",
        figure,
    )


def mean_by_step(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean confidence at each step over the rows that reach it, as long as there are enough of them."""
    steps = range(max(map(len, rows), default=0))
    running = [[row[step] for row in rows if len(row) > step] for step in steps]
    least = min(LEAST_ROWS, len(rows))
    return [fmean(values) for values in running if len(values) >= least]
