"""ReplaceMe (Shopkhoev et al., NeurIPS 2025, arXiv 2505.02819; mts-ai/ReplaceMe): layers become one matrix.

The ``budget / 2`` contiguous layers (layer 0 stays) whose removal turns the stream least by mean cosine distance are
left out; a least-squares matrix T times the update of the feed-forward before them makes up for it, merged into that
feed-forward's down projection, so it costs nothing (where a norm follows the feed-forward, as in Gemma-2 and OLMo-2,
one product). One window for all stages. Differs from the released code: fitted on the task's stage prompts and full
depth's outputs; a ridge of 1e-6 of the mean diagonal where its example has none; no cosine objective, no second
window.
"""

from litestage.methods.layers import layer_budget
from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan
from litestage.profile.blocks import merged_map, nearest_window
from litestage.profile.forced import TeacherForced


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "replaceme", setting.layers - 1)
    return dict.fromkeys(setting.stages, setting.measurements.of_forced(lambda forced: replaced(forced, count)))


def replaced(forced: TeacherForced, count: int) -> StagePlan:
    """The nearest window of ``count`` layers left out, its matrix in the feed-forward before it."""
    start = nearest_window(forced, count)
    return StagePlan(
        SkipSet.of_layers(range(start, start + count)),
        compensation="merged",
        tensors={f"ffn.{start - 1}": merged_map(forced, start, count)},
    )
