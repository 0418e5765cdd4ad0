"""ShortGPT (Men et al. 2024, arXiv 2403.03853): the layers of lowest Block Influence are left out, in every stage.

``BI_i = 1 - E[cos(x, y)]`` over tokens, x and y the residual stream before and after layer i. Differs from the paper:
measured on the task's own stage prompts and full depth's outputs instead of PG19 text.
"""

from litestage.methods.layers import layer_budget, without_layers
from litestage.methods.setting import Setting
from litestage.plan import StagePlan
from litestage.profile.blocks import block_influence
from litestage.profile.forced import TeacherForced


def order(forced: TeacherForced) -> list[int]:
    """All layers, the one of lowest influence first."""
    influence = block_influence(forced)
    return sorted(range(len(influence)), key=lambda layer: influence[layer])


def layers_to_skip(setting: Setting, count: int) -> list[int]:
    """The ``count`` layers of lowest influence; the measurement is kept."""
    return setting.measurements.order("shortgpt", count, lambda forced, known, wanted: order(forced))


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "shortgpt", setting.layers)
    return without_layers(setting, layers_to_skip(setting, count))
