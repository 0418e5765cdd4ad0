"""The experiments' plots start here: panels side by side, plain axes, one palette."""

from __future__ import annotations

from typing import Any

PALETTE = ("#c2410c", "#0f766e", "#1d4ed8", "#7c3aed", "#64748b", "#a16207", "#be185d", "#334155")


def panels(columns: int, *, width: float = 4.0, height: float = 3.4, share_y: bool = True) -> tuple[Any, list[Any]]:
    """A matplotlib Figure with ``columns`` axes in a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = list(figure.subplots(1, columns, sharey=share_y, squeeze=False)[0])
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
        one.tick_params(labelsize=8)
    return figure, axes
