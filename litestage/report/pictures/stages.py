"""Where tokens and time go: per method, stacked by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from litestage.report.drawing import Picture, legend_above, panel, short
from litestage.report.palette import SERIES


def by_stage(results: Mapping[str, Any]) -> list[Picture]:
    """New tokens of every method by stage; and, of those that were timed, milliseconds."""
    tokens = _stacked(
        "tokens",
        "Tokens by stage",
        "New tokens per question, all rows of a stage together. A plan whose text rambles pays for it here.",
        results,
        lambda stage: stage["tokens"],
        "new tokens per question",
    )
    if not any("prefill_s" in stage for method in results["methods"] for stage in method["stages"].values()):
        return [tokens]
    time = _stacked(
        "time",
        "Time by stage",
        "Milliseconds per question, prefill and decoding together, one question at a time.",
        results,
        lambda stage: (stage.get("prefill_s", 0.0) + stage.get("decode_s", 0.0)) * 1000,
        "milliseconds per question",
    )
    return [tokens, time]


def _stacked(
    name: str,
    title: str,
    caption: str,
    results: Mapping[str, Any],
    value: Callable[[Mapping[str, Any]], float],
    unit: str,
) -> Picture:
    methods = results["methods"]
    stages = list(methods[0]["stages"])
    figure, (axes,) = panel(0.9 + 0.3 * len(methods))
    left = [0.0] * len(methods)
    for index, stage in enumerate(stages):
        widths = [value(method["stages"][stage]) if stage in method["stages"] else 0.0 for method in methods]
        axes.barh(
            range(len(methods)), widths, left=left, color=SERIES[index % len(SERIES)], height=0.62, label=short(stage)
        )
        left = [sum(pair) for pair in zip(left, widths, strict=True)]
    for row, total in enumerate(left):
        axes.annotate(f"{total:.1f}", (total, row), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(methods)), [short(method["name"]) for method in methods])
    axes.invert_yaxis()
    axes.margins(x=0.14, y=0.4 / len(methods))
    axes.set_xlabel(unit, fontsize=9)
    axes.grid(axis="y", visible=False)
    legend_above(axes)
    alt = "; ".join(
        f"{method['name']}: " + ", ".join(f"{stage} {value(of):.1f}" for stage, of in method["stages"].items())
        for method in methods
    )
    return Picture(name, title, caption, f"Stacked bars of {unit}. {alt}.", figure)
