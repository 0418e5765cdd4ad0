"""From matplotlib figures to pictures: inline SVG for the page, files for Markdown and for trackers.

Every picture is as wide as a phone, so that its text stays readable there; wide screens show several in a row.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from litestage.report.palette import following_the_page, following_the_reader

WIDTH = 4.6
"""Inches; at 72 points each, about the 328 pixels that a phone of 360 leaves."""

LONGEST_NAME = 24
"""Characters of a name that a picture shows; longer ones would leave no room to draw in."""

_LEGEND_WIDTH, _SWATCH, _LETTER = 230, 26, 4.6  # points; letters of 8 points are about so wide


@contextmanager
def plain_text() -> Iterator[None]:
    """While figures are made and drawn: text stays text, and a dollar sign in a name is not mathematics."""
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "text.parse_math": False}):
        yield


@dataclass(frozen=True)
class Picture:
    """A figure with what is said beside and instead of it.

    Attributes:
        name: unique in its report; letters, digits and hyphens.
        title: what it shows.
        caption: how to read it.
        alt: what one would see, for those who can't.
        figure: the matplotlib Figure.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Any

    @property
    def svg(self) -> str:
        """An SVG element for an HTML page: its width is the page's, its colours follow the page's."""
        svg = self._as_drawn
        svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
        used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
        svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
        svg = re.sub(r'<svg ([^>]*?)height="[\d.]+pt" ', r'<svg \1 aria-hidden="true" ', svg, count=1)
        return following_the_page(re.sub(r'width="[\d.]+pt"', 'width="100%"', svg, count=1))

    def write_svg(self, folder: Path) -> Path:
        path = folder / f"{self.name}.svg"
        path.write_text(following_the_reader(self._as_drawn), encoding="utf-8")
        return path

    @cached_property
    def _as_drawn(self) -> str:
        """Drawn once for the page and the file: it is what takes a report's time."""
        return _svg(self.figure, self.name)

    def write_png(self, folder: Path) -> Path:
        path = folder / f"{self.name}.png"
        path.write_bytes(_drawn(self.figure, "png", facecolor="white", dpi=160))
        return path


def svg_file(figure: Any, name: str) -> str:
    """A matplotlib figure as the text of an SVG file that is light or dark as its reader likes pages."""
    return following_the_reader(_svg(figure, name))


def _svg(figure: Any, name: str) -> str:
    """The same figure and name give the same text. Letters have no colour of their own but the surroundings'."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": name}):
        svg = _drawn(figure, "svg", transparent=True, metadata={"Date": None}).decode()
    return re.sub(r"<text ", '<text fill="currentColor" ', svg)


def _drawn(figure: Any, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with plain_text():
        figure.savefig(buffer, format=form, bbox_inches="tight", **options)
    return buffer.getvalue()


def short(name: str) -> str:
    """A name as it fits into a picture."""
    line = " ".join(name.split())
    return line if len(line) <= LONGEST_NAME else line[: LONGEST_NAME - 1] + "…"


def panel(
    height: float = 3.2, rows: int = 1, width: float = WIDTH, columns: int = 1, share_y: bool = True
) -> tuple[Any, list[Any]]:
    """A Figure with axes, row by row; those over each other share the horizontal one, those side by side the other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(rows, columns, sharex="col", sharey="row" if share_y else False, squeeze=False).flat)
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
        one.set_axisbelow(True)
        one.tick_params(labelsize=8)
    return figure, axes


def within_percent(axes: Any, room: float = 0.08) -> None:
    """The vertical axis without what no percentage can be, but with room for what is drawn at 0 and at 100 %."""
    low, high = axes.get_ylim()
    span = min(high, 100) - max(low, 0)
    axes.set_ylim(max(low, -room * span), min(high, 100 + room * span))


def legend_above(axes: Any) -> None:
    """The legend over the axes, where it hides nothing: as many names in a row as there is room for."""
    _, names = axes.get_legend_handles_labels()
    axes.legend(
        fontsize=8,
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=max(1, int(_LEGEND_WIDTH / (_SWATCH + _LETTER * max(map(len, names))))),
        columnspacing=1,
        handlelength=1.4,
    )
