"""Static early exit, as in AdaSkip's repository (ASISys/AdaSkip, ``llama_EE.py``): the last N layers never run.

Layer i is skipped if ``L - i <= N``, N being ``budget / 2``; prefill and decode alike. Nothing looks at a confidence:
the stop rule of LiteStage is ``+exit``, which shortens a generation instead of the depth.
"""

from litestage.methods.layers import layer_budget, without_layers
from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "early-exit", setting.layers)
    return without_layers(setting, range(setting.layers - count, setting.layers))
