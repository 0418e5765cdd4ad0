"""Closed-form compensation (beyond the paper): what stands in for a skipped sub-layer, per sub-layer and stage.

The sub-layers are gone through in order. Where one is skipped, a least-squares map from the stream that the skipping
really leaves, ``x``, to the stream full depth has after it, ``y``, takes its place; so each estimate also makes up for
what the earlier ones got wrong. No gradient, no labels. AdaSkip's norm ratio is a scalar relative of ``scale``;
ReplaceMe (2505.02819) and Ghosted Layers (2605.15491) fit linear maps for whole removed blocks, once per model.

================  ==============================  ======================================
form              what replaces the sub-layer     tensor
================  ==============================  ======================================
``scale``         ``r x``                         scalar
``affine``        ``a x + b`` per channel         [2, width]: a, b
``lowrank:k``     ``x + x U V + b``               [2k + 1, width]: U transposed, V, b
``linear``        ``x + x M + b``                 [width + 1, width]: M, b
``block``         ``x + x M``, once per cut       [width, width]: M
================  ==============================  ======================================

A cut is a run of neighbouring skipped sub-layers. On the reference model ``block`` keeps as many outputs unchanged as
``linear`` does at a fraction of its cost, and both forms per channel change more outputs than no compensation: what
they minimise, the distance between streams, is ruled by a few channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from litestage.decoder.decoder import stand_in
from litestage.plan import SkipSet
from litestage.profile.forced import TeacherForced

RIDGE = 1e-3
"""Of the mean square of the inputs: keeps the maps finite where a channel hardly varies."""


@torch.inference_mode()
def fit_compensation(forced: TeacherForced, skip: SkipSet, form: str) -> tuple[dict[str, Tensor], Tensor]:
    """Fits every skipped sub-layer's stand-in.

    Args:
        forced: teacher-forced calibration sequences whose kept streams are full depth's.
        form: ``scale``, ``affine``, ``lowrank:<rank>``, ``linear`` or ``block``.

    Returns:
        The tensors by ``"mhsa.4"`` or ``"ffn.7"``, and the last stream under them.
    """
    tensors: dict[str, Tensor] = {}
    names = forced.decoder.sublayers
    index = min((at for at, name in enumerate(names) if name in skip), default=0)
    stream = forced.streams[index]
    while index < len(names):
        kind, layer = names[index]
        if (kind, layer) not in skip:
            stream = forced.step(index, stream)
            index += 1
            continue
        last = index + 1
        while form == "block" and last < len(names) and names[last] in skip:
            last += 1
        tensor = _fit(form, stream[forced.valid].double(), forced.streams[last][forced.valid].double()).to(stream.dtype)
        tensors[f"{kind}.{layer}"] = tensor
        stream = stand_in(form, tensor)(stream)
        index = last
    return tensors, stream


def _fit(form: str, x: Tensor, y: Tensor) -> Tensor:
    """Least squares from ``x`` to ``y``, both [tokens, width]."""
    if form == "scale":
        return (x * y).sum() / (x * x).sum()
    if form == "affine":
        mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
        centred = x - mean_x
        variance = (centred * centred).mean(dim=0)
        slope = ((centred * (y - mean_y)).mean(dim=0) + RIDGE * variance.mean()) / (variance + RIDGE * variance.mean())
        return torch.stack([slope, mean_y - slope * mean_x])
    if form == "block":
        return _ridge(x, y - x)
    matrix, bias = _linear(x, y - x)
    if form == "linear":
        return torch.cat([matrix, bias[None]])
    rank = int(form.partition(":")[2])
    # reduced-rank regression: the best rank-k approximation of the fitted values
    _, _, directions = torch.linalg.svd((x - x.mean(dim=0)) @ matrix, full_matrices=False)
    onto = directions[:rank]
    return torch.cat([(matrix @ onto.T).T, onto, bias[None] + x.mean(dim=0)[None] @ (matrix - matrix @ onto.T @ onto)])


def _linear(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression: matrix [width, width] and bias [width]."""
    mean_x, mean_target = x.mean(dim=0), target.mean(dim=0)
    matrix = _ridge(x - mean_x, target - mean_target)
    return matrix, mean_target - mean_x @ matrix


def _ridge(x: Tensor, target: Tensor) -> Tensor:
    gram = x.T @ x
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(gram, x.T @ target)
