"""The bench as a table, as Markdown and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ["model", "what", "against", "ours, ms", "theirs, ms", "ratio", "95 %", "bar", "note"]


def cells(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column heads and rows, as text."""
    return COLUMNS, [
        [
            row["model"],
            row["what"],
            row["against"],
            _milliseconds(row["ours_s"]),
            _milliseconds(row["theirs_s"]),
            f"{row['ratio']:.2f}" if row["ratio"] is not None else "",
            "{:.2f} to {:.2f}".format(*row["ratio_ci95"]) if row["ratio_ci95"] else "",
            f"{row['bar']:g}" if row["bar"] is not None else "",
            row["note"],
        ]
        for row in content["rows"]
    ]


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1000:.3g}" if seconds < 1 else f"{seconds * 1000:.0f}"


def as_markdown(content: Mapping[str, Any]) -> str:
    from litestage.report.tables import markdown

    ran, memory = content["environment"], content.get("memory")
    return (
        f"Measured with `litestage bench{' --quick' if content['quick'] else ''}` on {ran['hardware']}, "
        f"{ran['threads']} threads, torch {ran['torch']}, transformers {ran['transformers']}. Medians; the ratio is "
        "the median of theirs over ours in repeats that took turns, with the 95 % interval of a bootstrap over them."
        + (f" Peak memory: {memory['peak_resident_mb']:.0f} MB resident, {memory['covers']}." if memory else "")
        + f"\n\n{markdown(*cells(content))}\n"
    )


def as_svg(content: Mapping[str, Any]) -> str:
    """Every measured ratio with its interval, and the bar where there is one."""
    from litestage.report.drawing import panel, svg_file

    rows = [row for row in content["rows"] if row["ratio"] is not None]
    figure, (axes,) = panel(0.6 + 0.42 * len(rows), width=7.2)
    for place, row in enumerate(rows):
        low, high = row["ratio_ci95"]
        axes.plot([low, high], [place, place], color="#64748b")
        axes.plot(row["ratio"], place, "o", color="#c2410c")
        if row["bar"] is not None:
            axes.plot(row["bar"], place, "|", color="#64748b", markersize=14)
    axes.set_yticks(range(len(rows)), list(map(_label, rows)), fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("times as fast, or share; stroke: bar", fontsize=8)
    return svg_file(figure, "bench")


def _label(row: Mapping[str, Any]) -> str:
    """What was done by what, and beside what, without how that was asked."""
    model, against = row["model"].partition(";")[0], row["against"].partition(", options")[0]
    return f"{model}: {row['what']}\nbeside {against}"
