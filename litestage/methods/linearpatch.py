"""LinearPatch (Chen et al., NeurIPS 2025, arXiv 2505.24680; chenxinrui-tsinghua/LinearPatch): a patch at the cut.

The ``budget / 2`` contiguous layers between which the stream turns least by mean cosine are left out, neither the first
nor the last layer among them. In a Hadamard basis, where a few large channels are spread over all, each channel is
scaled by what the layers did to its mean magnitude: ``x <- x H diag(d) H'``, ``d = mean|x_j H| / mean|x_i H|``, x_i and
x_j full depth's streams before and after the cut. One product at the cut; one set for all stages. Differs from the
released code: calibrated on the task's stage prompts and full depth's outputs; Hadamard matrices are Paley's and
Sylvester's; without its distillation.
"""

import torch

from litestage.methods.layers import layer_budget
from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan
from litestage.profile.blocks import nearest_window
from litestage.profile.forced import TeacherForced
from litestage.profile.hadamard import hadamard


def plan(setting: Setting) -> dict[str, StagePlan]:
    count = layer_budget(setting, "linearpatch", setting.layers - 2)
    return dict.fromkeys(setting.stages, setting.measurements.of_forced(lambda forced: patched(forced, count)))


def patched(forced: TeacherForced, count: int) -> StagePlan:
    """The window of ``count`` layers that turns the stream least left out, its patch in their place."""
    start = nearest_window(forced, count, keep_last=True)
    return StagePlan(
        SkipSet.of_layers(range(start, start + count)),
        compensation="block",
        tensors={f"mhsa.{start}": patch(forced, start, count) - torch.eye(forced.streams[0].shape[-1])},
    )


@torch.inference_mode()
def patch(forced: TeacherForced, start: int, count: int) -> torch.Tensor:
    """H diag(d) H' [width, width] for the layers ``start`` to ``start + count - 1``; d is the mean over sequences."""
    basis = hadamard(forced.streams[0].shape[-1])
    scales = []
    for row, valid in enumerate(forced.valid):
        before, after = (
            (forced.streams[2 * layer][row][valid].double().cpu() @ basis).abs().mean(0)
            for layer in (start, start + count)
        )
        scales.append(after / before)
    return (basis * torch.stack(scales).mean(0) @ basis.T).float()
