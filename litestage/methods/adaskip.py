"""AdaSkip (He et al., AAAI 2025, arXiv 2501.02336; ASISys/AdaSkip): cosine ranking with norm-ratio scaling.

The K sub-layers of highest cosine over all prompts, one set for the whole model; where one is skipped, the residual
stream is multiplied by the mean ratio of its norms after and before it, ``h <- r h``. The released code's further
decode-time FFN skipping never becomes active in its measured requests (its threshold stays at 1.0), so it is left out
here. Differs from the released code: calibrated on the task's stage prompts instead of 20 long documents.
"""

import torch

from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    importance = setting.importance
    chosen = importance.ranking()[: setting.budget]
    ratios = importance.norm_ratio
    scales = {
        f"{kind}.{layer}": torch.tensor(sum(ratios[stage][kind, layer] for stage in ratios) / len(ratios))
        for kind, layer in chosen
    }
    stage_plan = StagePlan(skip=SkipSet.of(chosen), compensation="scale", tensors=scales)
    return dict.fromkeys(setting.stages, stage_plan)
