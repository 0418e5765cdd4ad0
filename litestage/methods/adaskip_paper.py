"""AdaSkip as the paper describes it (He et al., AAAI 2025, arXiv 2501.02336): ``adaskip`` and its online step.

Over the first 20 generated tokens of each row, the mean cosine and norm ratio of every feed-forward that still runs;
from the next token on, those whose mean is at least the K-th largest prefill cosine are skipped as well, the stream
scaled by the row's own ratio. So it may skip more than the budget of K sub-layers. In the released code the threshold
is 1.0 in every measured request and the step never acts (``adaskip``); attentions are never added, for want of their
keys.
"""

from dataclasses import replace

from litestage.methods import adaskip
from litestage.methods.setting import Setting
from litestage.plan import StagePlan

OBSERVED = 20
"""Generated tokens that are watched before the rule decides, as in the released code."""


def plan(setting: Setting) -> dict[str, StagePlan]:
    cosine = setting.importance.cosine
    kind_layer = setting.importance.ranking()[setting.budget - 1]
    threshold = min(1.0, sum(cosine[stage][kind_layer] for stage in cosine) / len(cosine))
    schedule = {"online": {"observe": OBSERVED, "threshold": threshold}}
    return {stage: replace(stage_plan, schedule=schedule) for stage, stage_plan in adaskip.plan(setting).items()}
