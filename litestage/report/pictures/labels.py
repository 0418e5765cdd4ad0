"""Names beside points without hiding any, and a key below for those that have only a number's room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

Box = tuple[float, float, float, float]

LETTER, LINE = 4.6, 9.0
"""Points (1/72 inch) that a letter of size 8 is wide, and a line of them high."""
_KEY_WIDTH, _BELOW_AXES = 280, 36
_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_DISTANCES = (4, 15, 25, 36)
"""From the point to the nearest edge of its label. Slantwise first: intervals lie along the axes."""


@dataclass(frozen=True)
class Label:
    """What is written beside a point of the data, in which colour."""

    text: str
    point: tuple[float, float]
    colour: str


def place(figure: Any, axes: Any, labels: Sequence[Label]) -> None:
    """Writes every label at the nearest place where it hides neither a point nor an earlier label.

    A label that does not stand at its point is joined to it by a thin line.
    """
    figure.draw_without_rendering()
    scale = 72 / figure.dpi
    room = axes.get_window_extent()
    inside = (room.x0 * scale, room.y0 * scale, room.x1 * scale, room.y1 * scale)
    points = [tuple(axes.transData.transform(label.point) * scale) for label in labels]
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for (x, y), label in zip(points, labels, strict=True):
        width = LETTER * (len(label.text) + 1)
        places = [(distance, side, _box(x, y, width, distance, side)) for distance in _DISTANCES for side in _SIDES]
        distance, _, box = min(
            places, key=lambda at: (sum(_overlap(at[2], other) for other in taken) + _outside(at[2], inside), at[0])
        )
        taken.append(box)
        axes.annotate(
            label.text,
            label.point,
            xytext=((box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            va="center_baseline",
            color="#000000",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": label.colour, "shrinkA": 0, "shrinkB": 3}
            if distance > _DISTANCES[0]
            else None,
        )


def write_key(figure: Any, axes: Any, entries: Sequence[tuple[str, str]]) -> None:
    """Writes (number, name) pairs under the axes, column by column, and makes the figure as much taller."""
    if not entries:
        return
    width = LETTER * max(len(f"{number}  {name}") for number, name in entries)
    columns = max(1, int(_KEY_WIDTH / width))
    rows = ceil(len(entries) / columns)
    figure.set_figheight(figure.get_figheight() + rows * LINE / 72)
    for at, (number, name) in enumerate(entries):
        column, row = divmod(at, rows)
        axes.annotate(
            f"{number}  {name}",
            (column / columns, 0),
            xycoords="axes fraction",
            xytext=(0, -_BELOW_AXES - row * LINE),
            textcoords="offset points",
            fontsize=8,
            va="top",
        )


def _box(x: float, y: float, width: float, distance: float, side: tuple[int, int]) -> Box:
    across, up = side
    middle_x = x + across * (distance + width / 2)
    middle_y = y + up * (distance + LINE / 2)
    return middle_x - width / 2, middle_y - LINE / 2, middle_x + width / 2, middle_y + LINE / 2


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def _outside(box: Box, inside: Box) -> float:
    """The part of a label that would stand outside the axes."""
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, inside)
