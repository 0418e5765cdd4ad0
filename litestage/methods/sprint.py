"""SPRINT (IJCAI 2025, arXiv 2506.03510; snudm-starlab/SPRINT): sub-layers by harm per second, and tuned for.

As ``sprint-bare``, but the five least harmful are compared after the next feed-forward's down projection has been
solved for, and the projection of the one that goes is kept (:mod:`litestage.profile.sprint`): no product more, other
weights. One set and one set of weights for all stages. Differs from the released code as ``sprint-bare`` does, and the
five are solved for anew in every round. A model with a norm behind its down projections cannot be tuned: it is refused.
"""

import torch

from litestage.methods.setting import Setting
from litestage.methods.sprint_bare import named, order, prices_of
from litestage.plan import SkipSet, StagePlan
from litestage.profile.forced import TeacherForced
from litestage.profile.sprint import Pruning


def plan(setting: Setting) -> dict[str, StagePlan]:
    prices = prices_of(setting)
    places = order(setting, "sprint", prices, tunes=True)

    def tuned(forced: TeacherForced) -> list[dict[int, torch.Tensor]]:
        pruning = Pruning(forced, prices, tunes=True)
        pruning.extend(places, len(places))
        return pruning.weights_at

    weights = setting.measurements.steps(named("sprint", prices), setting.budget, tuned)
    tensors = {f"ffn.{place // 2}": weight for place, weight in weights.items()}
    return dict.fromkeys(setting.stages, StagePlan(SkipSet.of_places(places), compensation="tuned", tensors=tensors))
