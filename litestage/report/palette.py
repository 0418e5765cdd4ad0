"""The report's colours: one hue per series, with a lighter tone where the page is dark."""

from __future__ import annotations

import re

HUES = {
    "#c2410c": "#fdba74",  # orange: what is ours, what was chosen
    "#0f766e": "#5eead4",
    "#1d4ed8": "#93c5fd",
    "#7c3aed": "#c4b5fd",
    "#a16207": "#fde047",
    "#be185d": "#f9a8d4",
    "#334155": "#cbd5e1",
    "#64748b": "#94a3b8",  # grey: what is only there to compare with
}
"""On white, and on a dark page; each has a contrast of at least 3 to 1 there, as WCAG 2.1 wants of graphics."""

OURS, GREY = "#c2410c", "#64748b"
SERIES = tuple(hue for hue in HUES if hue != GREY)


def css_variables() -> tuple[str, str]:
    """The hues as CSS declarations: for a light page, and for a dark one."""
    light = " ".join(f"--hue{index}: {hue};" for index, hue in enumerate(HUES))
    dark = " ".join(f"--hue{index}: {hue};" for index, hue in enumerate(HUES.values()))
    return light, dark


def following_the_page(svg: str) -> str:
    """The SVG with its hues as CSS variables, black as the text's colour and white as the paper's, for dark pages."""
    for index, hue in enumerate(HUES):
        svg = svg.replace(hue, f"var(--hue{index})")
    return svg.replace("#000000", "currentColor").replace("#ffffff", "var(--paper)")


def following_the_reader(svg: str) -> str:
    """The same for an SVG file: it brings its own colours and paper, light or dark as its reader likes pages."""
    light, dark = css_variables()
    style = (
        f"<style>svg {{ color: #1e293b; --paper: #ffffff; {light} }} "
        f"@media (prefers-color-scheme: dark) {{ svg {{ color: #e2e8f0; --paper: #0f172a; {dark} }} }}</style>"
        '<rect width="100%" height="100%" style="fill: var(--paper)"/>'
    )
    return re.sub(r"(<svg [^>]*>)", lambda found: found[1] + style, following_the_page(svg), count=1)
