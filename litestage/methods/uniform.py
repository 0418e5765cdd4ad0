"""Uniform layer skipping: whole layers at even distances, the first and the last kept.

UnifiedSkip (arXiv 2404.06954) keeps evenly spaced layers. Its released selection drops a contiguous tail for speed-ups
below 2 (``unifiedskip``), and AdaSkip's port of it skips a number of layers other than N (``unifiedskip-port``). This
variant skips exactly N layers, at ``round(1 + j (L - 3) / (N - 1))``, in prefill and decode, without training.
"""

from litestage.methods.layers import layer_budget, without_layers
from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def layers_to_skip(layers: int, count: int) -> tuple[int, ...]:
    """``count`` evenly spaced layers of the inner ``layers - 2``."""
    if count == 1:
        return ((layers - 1) // 2,)
    return tuple(round(1 + j * (layers - 3) / (count - 1)) for j in range(count))


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "uniform", setting.layers - 2)
    return without_layers(setting, layers_to_skip(setting.layers, count))
