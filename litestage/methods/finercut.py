"""FinerCut (Zhang et al. 2024, arXiv 2405.18218): single sub-layers by greedy change of the model's output.

Again and again the attention or feed-forward goes whose removal, with those already gone, changes the next-token
distribution least. One set for all stages, no healing. The paper's distance and calibration text were not to be had:
here the Jensen-Shannon divergence from full depth, over full depth's own outputs on the task's stage prompts.
"""

from collections.abc import Sequence

from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan
from litestage.profile.forced import TeacherForced
from litestage.profile.greedy import divergence, greedy_order


def extend(forced: TeacherForced, known: Sequence[int], count: int) -> list[int]:
    """The first ``count`` sub-layers in FinerCut's order, by their place in the decoder."""
    units = [[name] for name in forced.decoder.sublayers]
    return greedy_order(forced, units, count, divergence(forced), known)


def plan(setting: Setting) -> dict[str, StagePlan]:
    chosen = setting.measurements.order("finercut", setting.budget, extend)
    return dict.fromkeys(setting.stages, StagePlan(SkipSet.of_places(chosen)))
