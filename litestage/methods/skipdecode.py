"""SkipDecode as far as it is known (Del Corro et al. 2023, arXiv 2307.02628): depth falls with position, in decode.

All rows share one depth per generated token, which never rises, so earlier tokens have the keys and values that later
ones need. It falls linearly from all L layers at the first generated token to ``L - budget / 2`` at the stage's limit
of new tokens, rounded up; the layers right after the warm-up layer 0 go first, so compute stays with the upper ones.
The budget is reached at the limit only: a stage that ends early has skipped less.

Differs: no fine-tuning, no released code, and one warm-up layer (their number is not known). A task that names no
limit gets the 512 tokens of AdaSkip's port.
"""

from litestage.methods.layers import growing_from_layer_1, layer_budget
from litestage.methods.setting import Setting
from litestage.plan import StagePlan

UNLIMITED = 512
"""Tokens over which the depth falls where a task names no limit."""


def layers_left_out(token: int, count: int, limit: int) -> int:
    """How many layers the ``token``-th generated token, counted from 1, does without."""
    return count * (min(token, limit) - 1) // (limit - 1) if token > 1 and limit > 1 else 0


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "skipdecode", setting.layers - 1)

    def stage_plan(limit: int) -> StagePlan:
        schedule = growing_from_layer_1(lambda token: layers_left_out(token, count, limit), limit)
        return StagePlan(phase="decode", schedule=schedule)

    return {stage: stage_plan(setting.limits.get(stage, UNLIMITED)) for stage in setting.stages}
