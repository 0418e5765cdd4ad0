"""Ghosted Layers (2026, arXiv 2605.15491; daniel-eai/ghosted_layers_official_repository): one linear map at each cut.

ShortGPT's layers are left out; where a run of them was, ``x <- x + x M`` with ``M = (X'X + eI)^-1 X' (Y - X)``, X and
Y full depth's streams before and after the run. One product of width x width per cut; one set for all stages. Differs
from the released code: fitted on the task's stage prompts and full depth's outputs.
"""

from torch import Tensor

from litestage.methods.layers import layer_budget
from litestage.methods.setting import Setting
from litestage.methods.shortgpt import layers_to_skip
from litestage.plan import SkipSet, StagePlan
from litestage.profile.blocks import block_map
from litestage.profile.forced import TeacherForced


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "ghosted", setting.layers)
    skip = SkipSet.of_layers(layers_to_skip(setting, count))
    maps = setting.measurements.of_forced(lambda forced: maps_at_cuts(forced, skip))
    return dict.fromkeys(setting.stages, StagePlan(skip, compensation="block", tensors=maps))


def maps_at_cuts(forced: TeacherForced, skip: SkipSet) -> dict[str, Tensor]:
    """The map of each run of layers that ``skip`` leaves out, by the run's first attention."""
    return {f"mhsa.{cut[0][1]}": block_map(forced, cut[0][1], len(cut) // 2) for cut in skip.cuts}
