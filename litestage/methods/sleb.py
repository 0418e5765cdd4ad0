"""SLEB (Song et al., ICML 2024, arXiv 2402.09025; jiwonsong-dev/SLEB ``sleb.py``): layers by greedy likelihood.

Again and again the layer goes whose removal, with those already gone, leaves the lowest negative log-likelihood; the
first and the last layer stay. One set for all stages. Differs from the released code: the likelihood is of full depth's
own outputs, given the task's stage prompts, instead of 128 WikiText-2 sequences.
"""

from collections.abc import Sequence

from litestage.methods.layers import layer_budget, without_layers
from litestage.methods.setting import Setting
from litestage.plan import StagePlan
from litestage.profile.forced import TeacherForced
from litestage.profile.greedy import greedy_order


def extend(forced: TeacherForced, known: Sequence[int], count: int) -> list[int]:
    """The first ``count`` inner layers in SLEB's order, numbered from 0 for layer 1."""
    layers = len(forced.decoder.sublayers) // 2
    units = [(("mhsa", layer), ("ffn", layer)) for layer in range(1, layers - 1)]
    return greedy_order(forced, units, count, forced.nll, known)


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "sleb", setting.layers - 2)
    chosen = setting.measurements.order("sleb", count, extend)
    return without_layers(setting, [unit + 1 for unit in chosen])
