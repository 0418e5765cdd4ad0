"""LiteStage's ranking alone (arXiv 2510.14211): the K sub-layers of highest cosine, the same K in every stage.

The ranking is the mean over the stages' prefills; no norm scaling, prefill and decode alike (neither is stated in the
paper; both are our reading of its overview figure).
"""

from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    if setting.budget == 0:
        return {stage: StagePlan() for stage in setting.stages}
    skip = SkipSet.of(setting.importance.ranking()[: setting.budget])
    return {stage: StagePlan(skip=skip) for stage in setting.stages}
