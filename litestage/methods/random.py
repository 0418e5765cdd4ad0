"""Random sub-layers, another draw in each stage: what a ranking has to beat."""

from random import Random

from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    sublayers = [(kind, layer) for layer in range(setting.layers) for kind in ("mhsa", "ffn")]
    rng = Random(setting.seed)
    return {stage: StagePlan(skip=SkipSet.of(rng.sample(sublayers, setting.budget))) for stage in setting.stages}
