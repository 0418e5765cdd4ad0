"""LiteStage's ranking alone (arXiv 2510.14211): the K sub-layers of highest cosine, the same K in every stage.

The ranking is the mean over the stages' prefills; no norm scaling, prefill and decode alike (neither is stated in the
paper; both are our reading of its overview figure).
"""

from litestage.methods.setting import NotThisBudget, Setting
from litestage.plan import SkipSet, StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    skip = SkipSet.of(setting.importance.ranking()[: setting.budget])
    return {stage: StagePlan(skip=skip) for stage in setting.stages}


def of_one_kind(setting: Setting, method: str, kind: str) -> dict[str, StagePlan]:
    """The same over the sub-layers of one kind, ``mhsa`` or ``ffn``.

    Raises:
        NotThisBudget: more sub-layers than the model has of that kind.
    """
    if setting.budget > setting.layers:
        raise NotThisBudget(
            f"{method} can skip at most {setting.layers} sub-layers, one a layer; the budget is {setting.budget}."
        )
    ranked = [name for name in setting.importance.ranking() if name[0] == kind]
    return dict.fromkeys(setting.stages, StagePlan(SkipSet.of(ranked[: setting.budget])))
