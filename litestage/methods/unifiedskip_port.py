"""UnifiedSkip as AdaSkip's repository ports it (ASISys/AdaSkip, ``E2E/model/llama_US.py``): ``i mod (L // N) == 1``.

N is ``budget / 2`` layers, but the formula leaves out another number: of 22 layers, 5 for N = 4, 11 for N = 8 and
none from N = 12 on (``L // N`` is 1). The plan says what is really left out. Prefill and decode alike, as in the E2E
variant.
"""

from litestage.methods.layers import layer_budget, without_layers
from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def layers_to_skip(layers: int, count: int) -> tuple[int, ...]:
    """What the port's formula leaves out when it is asked for ``count``."""
    return tuple(layer for layer in range(layers) if count and layer % (layers // count) == 1)


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "unifiedskip-port", setting.layers)
    return without_layers(setting, layers_to_skip(setting.layers, count))
