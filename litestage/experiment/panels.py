"""The experiments' plots start here: panels side by side, plain axes, one palette, figures with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any, TypeVar

from litestage.report.drawing import panel
from litestage.report.palette import GREY, SERIES

Item = TypeVar("Item")

PALETTE = (*SERIES[:4], GREY, *SERIES[4:])
LINE: dict[str, Any] = {"fmt": "o-", "markersize": 3, "linewidth": 1.2}


def panels(columns: int, *, width: float = 4.0, height: float = 3.4, share_y: bool = True) -> tuple[Any, list[Any]]:
    """A matplotlib Figure with ``columns`` axes in a row, each so wide."""
    return panel(height, columns=columns, width=width * columns, share_y=share_y)


def name_axes(axes: Any, *, title: str = "", x: str = "", y: str = "") -> None:
    """Writes what the axes are; what is empty stays as it is."""
    if title:
        axes.set_title(title, fontsize=10)
    if x:
        axes.set_xlabel(x, fontsize=8)
    if y:
        axes.set_ylabel(y, fontsize=8)


def legend(axes: Any, **where: Any) -> None:
    axes.legend(fontsize=8, frameon=False, **where)


def coloured(items: Iterable[Item], colours: Sequence[str] = PALETTE) -> Iterator[tuple[Item, str]]:
    """Each with a colour; with more than there are, the first come again, and none is left out."""
    return zip(items, cycle(colours), strict=False)


def over_budgets(rows: Sequence[Mapping[str, Any]], rankings: Sequence[str], figure: str, *, title: str, y: str) -> Any:
    """A Figure with a panel for every stage: the rows' ``figure``, in per cent, over budgets, a line for each ranking.

    Args:
        title: of a panel, with ``{}`` for its stage.
    """
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    drawn, axes = panels(len(stages))
    for axis, stage in zip(axes, stages, strict=True):
        for shift, (ranking, colour) in enumerate(coloured(rankings)):
            chosen = [row for row in rows if row["stage"] == stage and row["ranking"] in ("full", ranking)]
            beside = [row["budget"] + 0.2 * shift for row in chosen]  # so that intervals can be told apart
            with_intervals(axis, beside, chosen, figure, scale=100, color=colour, label=ranking, **LINE)
        name_axes(axis, title=title.format(stage), x="sub-layers skipped in a stage")
    name_axes(axes[0], y=y)
    legend(axes[0])
    return drawn


def with_intervals(
    axes: Any, x: Sequence[float], rows: Sequence[Mapping[str, Any]], figure: str, *, scale: float = 1.0, **style: Any
) -> None:
    """Draws the rows' ``figure``, times ``scale``, at ``x``, with bars over its 95 % interval.

    Args:
        style: of the line or the points, as errorbar takes it.
    """
    values = [row[figure] * scale for row in rows]
    low, high = zip(*(row[f"{figure}_ci95"] for row in rows), strict=True)
    below = [max(0.0, value - limit * scale) for value, limit in zip(values, low, strict=True)]
    above = [max(0.0, limit * scale - value) for value, limit in zip(values, high, strict=True)]
    axes.errorbar(x, values, yerr=[below, above], capsize=2, **style)
