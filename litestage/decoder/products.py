"""What lean sub-layers are made of: norms, and products of the normalised stream with one matrix or with several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.layers import Norm, ResidualSubLayer
from litestage.decoder.packed import linear

Map = Callable[[Tensor], Tensor]


# --- norms ---


def norm(of: Norm | None, weighted: bool = True) -> Map:
    """A root-mean-square norm over the last dimension; unweighted: without its weight times the root of the width."""
    if of is None:
        return lambda stream: stream
    weight, eps = of.weight(), of.epsilon
    width = len(weight)
    if weight.device.type == "cuda" and weighted and not of.centred:  # there it is one kernel
        return lambda stream: F.rms_norm(stream, (width,), weight, eps)
    if weight.dtype == torch.float32:
        # |x| and the epsilon's share of it as two sides of a right angle: three operations where rms_norm has seven
        floor = torch.tensor(math.sqrt(width * eps), device=weight.device)
        scale = weight * math.sqrt(width)
        if not weighted:
            return lambda stream: stream / torch.hypot(torch.linalg.vector_norm(stream, dim=-1, keepdim=True), floor)
        return lambda stream: (
            stream / torch.hypot(torch.linalg.vector_norm(stream, dim=-1, keepdim=True), floor) * scale
        )
    scale = of.weight(torch.float32)
    return lambda stream: F.rms_norm(stream.float(), (width,), scale, eps).to(stream.dtype)


# --- projections ---


class Fused:
    """One product for several maps of the normalised stream, the norm's weight multiplied into theirs.

    Attributes:
        matrix: [in, out].
        bias: [out] or None.
        floor: the epsilon's share of the norm; None without a norm.
    """

    def __init__(self, parts: list[tuple[Tensor, Tensor | None]], pre: Norm | None) -> None:
        weight = torch.cat([part for part, _ in parts]).double()
        width = weight.shape[1]
        self.floor: float | None = None
        if pre is not None:
            weight = weight * (pre.weight(torch.float64) * math.sqrt(width))
            self.floor = math.sqrt(width * pre.epsilon)
        self.matrix, self._unit = weight.float().T.contiguous(), norm(pre, weighted=False)
        biases = [bias for _, bias in parts if bias is not None]
        self.bias = torch.cat(biases) if biases else None

    def __call__(self, stream: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(self._unit(stream), self.matrix)
        return torch.addmm(self.bias, self._unit(stream), self.matrix)


def joined(parts: list[Any]) -> Map:
    """One product for several linear modules, or that of the only one."""
    if len(parts) == 1:
        return linear(parts[0])  # type: ignore[no-any-return]
    weight, bias = side_by_side(parts)
    return lambda stream: F.linear(stream, weight, bias)


def side_by_side(parts: list[Any]) -> tuple[Tensor, Tensor | None]:
    """Weights [out, in] and biases of linear modules as one, of which their own become views: nothing is held twice."""
    biases = [part.bias for part in parts]
    bias = None if biases[0] is None else torch.cat(biases).detach() if len(parts) > 1 else biases[0].detach()
    first, sizes = parts[0].weight, [part.out_features for part in parts]
    starts = [first.storage_offset() + sum(sizes[:at]) * first.shape[1] for at in range(len(parts))]
    storages = {part.weight.untyped_storage()._cdata for part in parts}
    if len(storages) == 1 and [part.weight.storage_offset() for part in parts] == starts:  # alone, or done before
        return first.detach().as_strided((sum(sizes), first.shape[1]), first.stride(), starts[0]), bias
    weight = torch.cat([part.weight for part in parts]).detach()
    for part, piece in zip(parts, torch.split_with_sizes(weight, sizes), strict=True):
        part.weight = torch.nn.Parameter(piece, requires_grad=False)
    return weight, bias


def plain_matrix(sublayer: ResidualSubLayer, copied: bool) -> Tensor | None:
    """Its output projection's matrix [in, out], if it is all that there is to do; a copy holds the multiplier."""
    output, multiplier = sublayer.output, sublayer.multiplier
    if sublayer.post_norm is not None or output.bias is not None or type(output) is not torch.nn.Linear:
        return None
    if not copied:
        return output.weight.T if multiplier == 1.0 else None
    return (output.weight.T * multiplier).contiguous()


def finish(sublayer: ResidualSubLayer, matrix: Tensor | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Adds its output projection, normalised and multiplied where the family does, to the stream."""
    if matrix is not None:
        return lambda stream, inner: torch.addmm(stream, inner, matrix)
    whole, after, multiplier = linear(sublayer.output), norm(sublayer.post_norm), sublayer.multiplier
    if multiplier != 1.0:
        return lambda stream, inner: torch.add(stream, after(whole(inner)), alpha=multiplier)
    if sublayer.post_norm is not None:
        return lambda stream, inner: stream + after(whole(inner))
    return lambda stream, inner: stream + whole(inner)
