"""Full depth: nothing is skipped."""

from litestage.methods.setting import Setting
from litestage.plan import StagePlan


def plan(setting: Setting) -> dict[str, StagePlan]:
    return {stage: StagePlan() for stage in setting.stages}
