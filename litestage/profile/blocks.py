"""What full depth's streams say of whole layers: their influence, and the linear maps that can stand for them."""

from __future__ import annotations

import torch
from torch import Tensor

from litestage.profile.forced import TeacherForced

MERGED_RIDGE = 1e-6
"""Of the mean diagonal of the Gram matrix: a feed-forward whose output lacks a direction is no error."""
BLOCK_RIDGE = 1e-6


@torch.inference_mode()
def block_influence(forced: TeacherForced) -> list[float]:
    """By layer, ``1 - E[cos(x, y)]`` over all tokens, ``x`` and ``y`` the stream before and after it (2403.03853)."""
    return [1 - float(_cosines(forced, 2 * layer, 2 * layer + 2).mean()) for layer in range(len(forced.streams) // 2)]


@torch.inference_mode()
def nearest_window(forced: TeacherForced, count: int, keep_last: bool = False) -> int:
    """The first of the ``count`` contiguous layers, layer 0 not among them, whose removal turns the stream least.

    By the mean over tokens of the cosine distance between the streams before and after the window (2505.02819).

    Args:
        keep_last: the last layer is not among them either.
    """
    starts = range(1, len(forced.streams) // 2 - count + (0 if keep_last else 1))
    return min(starts, key=lambda start: -float(_cosines(forced, 2 * start, 2 * (start + count)).mean()))


@torch.inference_mode()
def merged_map(forced: TeacherForced, start: int, count: int) -> Tensor:
    """ReplaceMe's T [width, width] for the layers ``start`` to ``start + count - 1``: least squares, in float64.

    With M the update of the feed-forward before the window, H the stream after it and H' the stream after the window,
    ``T = (M'M + aI)^-1 M' (H' + M - H)``, so that the residual stream plus ``M T`` comes close to H'.
    """
    residual, before, after = (_tokens(forced, index) for index in (2 * start - 1, 2 * start, 2 * (start + count)))
    update = before - residual
    gram = update.T @ update
    ridge = MERGED_RIDGE * gram.diagonal().mean()
    return _solve(gram, ridge, update.T @ (after + update - before))


@torch.inference_mode()
def block_map(forced: TeacherForced, start: int, count: int) -> Tensor:
    """Ghosted Layers' M [width, width] for the same layers: ``M = (X'X + eI)^-1 X' (Y - X)``, float64, e = 1e-6.

    X and Y are the streams before and after them at full depth, so that ``x + x M`` comes close to what they did.
    """
    x, y = _tokens(forced, 2 * start), _tokens(forced, 2 * (start + count))
    return _solve(x.T @ x, torch.tensor(BLOCK_RIDGE), x.T @ (y - x))


def _solve(gram: Tensor, ridge: Tensor, right: Tensor) -> Tensor:
    """The map, float32, in main memory: part of a plan, not of a device."""
    ridged = gram + ridge.to(gram) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(ridged, right).float().cpu()


def _tokens(forced: TeacherForced, index: int) -> Tensor:
    """The stream before sub-layer ``index``, without padding: [tokens, width], float64."""
    return forced.streams[index][forced.valid].double()


def _cosines(forced: TeacherForced, before: int, after: int) -> Tensor:
    x, y = (forced.streams[index][forced.valid].float() for index in (before, after))
    return torch.cosine_similarity(x, y, dim=-1)
