"""SkipDecode as AdaSkip's repository ports it (ASISys/AdaSkip, ``E2E/model/llama_SD.py``): layers 1 to N_t are skipped.

``N_t = min(N, ceil(t / T (N - 1)) + 1)`` after ``t`` generated tokens, N being ``budget / 2`` layers; layer 0 always
runs, and layer 1 is skipped in the prefill too. Differs from the released code: T is the stage's limit of new tokens
instead of 512, at which stages of a sentence would skip two layers all along (a task that names no limit keeps the
512).
"""

from functools import partial

from litestage.methods.layers import growing_from_layer_1, layer_budget
from litestage.methods.setting import Setting
from litestage.methods.skipdecode import UNLIMITED
from litestage.plan import SkipSet, StagePlan


def layers_left_out(token: int, count: int, limit: int) -> int:
    """N_t: layers that the prompt (``token`` 0) or the ``token``-th generated token does without."""
    return min(count, -(-token * (count - 1) // limit) + 1) if count else 0


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "skipdecode-port", setting.layers - 1)

    def stage_plan(limit: int) -> StagePlan:
        left_out = partial(layers_left_out, count=count, limit=limit)
        return StagePlan(SkipSet.of_layers(range(1, left_out(0) + 1)), schedule=growing_from_layer_1(left_out, limit))

    return {stage: stage_plan(setting.limits.get(stage, UNLIMITED)) for stage in setting.stages}
