"""UnifiedSkip as published (Liu et al. 2024, arXiv 2404.06954; Adaxry/Unified_Layer_Skipping): decode only.

For a target speed-up s of L layers the released code keeps ``K = int(L / s)``: layers 0 and L - 1, then every layer
``i`` with ``i % interval == 0``, ``interval = int(L / (K - 1))``, from below until there are K. The budget names s:
the one whose K leaves ``budget / 2`` layers out. Below s = 2 the interval is 1, so a contiguous tail goes (but the
last layer).

Differs from the released code: no fine-tuning on the shallow path. Keys and values need no copy from the layer below,
as there: the prompt runs at full depth, and a layer that is skipped in decode is skipped in every step.
"""

from litestage.methods.layers import layer_budget, without_layers
from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def layers_to_skip(layers: int, count: int) -> tuple[int, ...]:
    """The ``count`` layers that the released selection does not keep; at least two are kept."""
    keep = {0, layers - 1}
    interval = layers // (layers - count - 1)
    for layer in range(1, layers - 1):
        if layer % interval == 0 and len(keep) < layers - count:
            keep.add(layer)
    return tuple(layer for layer in range(layers) if layer not in keep)


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "unifiedskip", setting.layers - 2)
    return without_layers(setting, layers_to_skip(setting.layers, count), phase="decode")
