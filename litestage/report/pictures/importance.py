"""The importance heat map: how little each sub-layer turns the residual stream, by layer and stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestage.report.drawing import Picture, panel, short

KINDS = {"mhsa": "MHSA", "ffn": "FFN"}
LEAST = 1e-6
"""Below this, 1 - cosine is rounding."""


def importance_by_layer(importance: Mapping[str, Any]) -> Picture:
    """From a profile's ``importance`` entry: cosine before and after each sub-layer, MHSA and FFN, stage by stage."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    cosine = importance["cosine"]
    stages = list(cosine)
    layers = 1 + max(int(name.split(".")[1]) for name in cosine[stages[0]])
    turns = {stage: {name: max(1 - value, LEAST) for name, value in row.items()} for stage, row in cosine.items()}
    values = [value for row in turns.values() for value in row.values()]
    scale = LogNorm(min(values), max(*values, 2 * min(values)))
    figure, axes = panel(1.1 + 0.62 * len(stages), rows=len(KINDS))
    mesh = None
    for one, (kind, label) in zip(axes, KINDS.items(), strict=True):
        table = [[turns[stage].get(f"{kind}.{layer}", float("nan")) for layer in range(layers)] for stage in stages]
        mesh = one.pcolormesh(table, cmap="viridis_r", norm=scale, linewidth=0)
        one.set_yticks([index + 0.5 for index in range(len(stages))], list(map(short, stages)))
        one.invert_yaxis()
        one.grid(visible=False)
        one.set_title(label, fontsize=9, loc="left")
    every = max(1, layers // 8)
    axes[-1].set_xticks([layer + 0.5 for layer in range(0, layers, every)], [str(i) for i in range(0, layers, every)])
    axes[-1].set_xlabel("layer", fontsize=9)
    bar = figure.colorbar(mesh, ax=axes, aspect=24)
    bar.ax.tick_params(labelsize=8)
    bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))  # powers of ten would be mathematics
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    bar.set_label("1 - cosine, log scale", fontsize=8)
    most = sorted(((value, stage, name) for stage, row in cosine.items() for name, value in row.items()), reverse=True)
    named = ", ".join(f"{_named(name)} in {stage} ({value:.3f})" for value, stage, name in most[:3])
    last = ", ".join(f"{_named(name)} in {stage} ({value:.3f})" for value, stage, name in most[-3:])
    return Picture(
        "importance",
        "Importance of the sub-layers",
        f"One minus the mean cosine between the residual stream before and after each sub-layer, over the prompts of "
        f"{importance['questions']} calibration questions. Bright: it turns the stream least, and the paper's ranking "
        f"skips it first.",
        f"Heat map of {layers} layers by {len(stages)} stages. Highest cosine: {named}. Lowest: {last}.",
        figure,
    )


def _named(name: str) -> str:
    kind, layer = name.split(".")
    return f"{KINDS.get(kind, kind)} {layer}"
