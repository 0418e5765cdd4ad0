"""The importance heat map: how little each sub-layer turns the residual stream, by layer and stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestage.report.drawing import Picture, panel

KINDS = {"mhsa": "MHSA", "ffn": "FFN"}


def importance_by_layer(importance: Mapping[str, Any]) -> Picture:
    """From a profile's ``importance`` entry: cosine before and after each sub-layer, MHSA and FFN, stage by stage."""
    cosine = importance["cosine"]
    stages = list(cosine)
    layers = 1 + max(int(name.split(".")[1]) for name in cosine[stages[0]])
    values = [value for row in cosine.values() for value in row.values()]
    figure, axes = panel(1.1 + 0.62 * len(stages), rows=len(KINDS))
    mesh = None
    for one, (kind, label) in zip(axes, KINDS.items(), strict=True):
        table = [[cosine[stage].get(f"{kind}.{layer}", float("nan")) for layer in range(layers)] for stage in stages]
        mesh = one.pcolormesh(table, cmap="viridis", vmin=min(values), vmax=max(values), linewidth=0)
        one.set_yticks([index + 0.5 for index in range(len(stages))], stages)
        one.invert_yaxis()
        one.grid(visible=False)
        one.set_title(label, fontsize=9, loc="left")
    every = max(1, layers // 8)
    axes[-1].set_xticks([layer + 0.5 for layer in range(0, layers, every)], [str(i) for i in range(0, layers, every)])
    axes[-1].set_xlabel("layer", fontsize=9)
    bar = figure.colorbar(mesh, ax=axes, aspect=24)
    bar.ax.tick_params(labelsize=8)
    bar.set_label("cosine before and after", fontsize=8)
    most = sorted(((value, stage, name) for stage, row in cosine.items() for name, value in row.items()), reverse=True)
    named = ", ".join(f"{_named(name)} in {stage} ({value:.3f})" for value, stage, name in most[:3])
    last = ", ".join(f"{_named(name)} in {stage} ({value:.3f})" for value, stage, name in most[-3:])
    return Picture(
        "importance",
        "Importance of the sub-layers",
        f"Mean cosine between the residual stream before and after each sub-layer, over the prompts of "
        f"{importance['questions']} calibration questions. Bright (near 1): it changes the direction least, and the "
        f"paper's ranking skips it first.",
        f"Heat map of {layers} layers by {len(stages)} stages. Highest: {named}. Lowest: {last}.",
        figure,
    )


def _named(name: str) -> str:
    kind, layer = name.split(".")
    return f"{KINDS.get(kind, kind)} {layer}"
