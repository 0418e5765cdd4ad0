"""A decode step's regions: sub-layers and head as functions of their weights, in operations a compiler can fuse.

Weights are arguments, so that all layers share a region; dimensions that never change are built in. The attention
itself stands between two regions. Products of one row become fused reductions where the compiler likes that better
(PyTorch's own choice since gpt-fast, pytorch-labs/gpt-fast), so biases and residuals are added, never passed on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.layers import Norm, finished
from litestage.decoder.products import side_by_side

Region = Callable[..., Any]


class Scale(NamedTuple):
    """A root-mean-square norm: its weight in float32, and what it adds to the mean square."""

    weight: Tensor
    epsilon: float


class Product(NamedTuple):
    """A product with one matrix [out, in], and root-mean-square norms before and after it, where there are any."""

    before: Scale | None
    weight: Tensor
    bias: Tensor | None
    after: Scale | None


def product(parts: list[Any], before: Norm | None, after: Norm | None = None) -> Product:
    """Of linear modules with one input, and of the norms before and after them."""
    weight, bias = side_by_side(parts)
    return Product(scale(before), weight, bias, scale(after))


def scale(norm: Norm | None) -> Scale | None:
    """A norm as regions take it."""
    return None if norm is None else Scale(norm.weight(torch.float32).detach(), norm.epsilon)


def projecting(queries: int, keys: int, width: int, gated: bool) -> Region:
    def project(
        stream: Tensor,
        into: Product,
        norms: tuple[Scale | None, Scale | None],
        turns: Tensor | None,
        order: Tensor | None,
        slots: Tensor,
        flat: Tensor,
        lanes: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Writes keys and values to their slots of ``flat`` [2 * keys, all slots, width]; returns the queries [lanes,
        keys, queries per key * tokens, width] and, where attention is gated, the gates [tokens, queries * width]."""
        tokens, of_queries, gate = stream.shape[0], (2 if gated else 1) * queries * width, None
        parts = list(torch.split_with_sizes(_times(stream, into), [of_queries, keys * width, keys * width], 1))
        if gated:
            parts[0], gate = parts[0].reshape(tokens, queries, 2 * width).chunk(2, 2)
            gate = gate.reshape(tokens, queries * width)
        asked, known = (
            part.reshape(tokens, -1, width)
            if norm is None
            else _normalised(part.reshape(tokens, -1, norm.weight.shape[0]), norm).view(tokens, -1, width)
            for part, norm in zip(parts, norms, strict=False)
        )
        if turns is not None:
            asked, known = _turned(asked, turns), _turned(known, turns)
            if order is not None:  # as the fused make keeps its keys
                asked, known = asked[..., order], known[..., order]
        flat.index_copy_(1, slots, torch.cat([known, parts[2].view(tokens, keys, width)], 1).transpose(0, 1))
        asked = asked.reshape(lanes, tokens // lanes, keys, queries // keys, width)
        return asked.permute(0, 2, 3, 1, 4).reshape(lanes, keys, -1, width), gate

    return project


def combining(queries: int, keys: int, width: int, multiplier: float) -> Region:
    def combine(stream: Tensor, attended: Tensor, out: Product, gate: Tensor | None) -> Tensor:
        tokens, lanes = stream.shape[0], attended.shape[0]
        heads = attended.reshape(lanes, keys, queries // keys, tokens // lanes, width).permute(0, 3, 1, 2, 4)
        heads = heads.reshape(tokens, queries * width)
        return _added(stream, heads if gate is None else heads * torch.sigmoid(gate), out, multiplier)

    return combine


def feeding_forward(activation: Callable[[Tensor], Tensor], multiplier: float) -> Region:
    def feed_forward(stream: Tensor, into: Product, out: Product) -> Tensor:
        gate, up = _times(stream, into).chunk(2, 1)
        return _added(stream, activation(gate) * up, out, multiplier)

    return feed_forward


def heading(divisor: float, softcap: float | None) -> Region:
    def head(stream: Tensor, product: Product) -> Tensor:
        return finished(_times(stream, product), divisor, softcap)

    return head


def _added(stream: Tensor, inner: Tensor, out: Product, multiplier: float) -> Tensor:
    update = _times(inner, out)
    return stream + (update if multiplier == 1.0 else update * multiplier)


def _times(inputs: Tensor, product: Product) -> Tensor:
    if product.before is not None:
        inputs = _normalised(inputs, product.before)
    out = F.linear(inputs, product.weight)  # a bias in here would keep the compiler from fusing what is around it
    if product.bias is not None:
        out = out + product.bias
    return out if product.after is None else _normalised(out, product.after)


def _normalised(stream: Tensor, norm: Scale) -> Tensor:
    wide = stream.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.epsilon) * norm.weight).to(stream.dtype)


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    """Rotates channel i of [tokens, heads, width] with channel i + half, in float32; the channels beyond stay."""
    half, wide = turns.shape[1], heads.float()
    cos, sin = turns[:, None, :, 0], turns[:, None, :, 1]
    first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1).to(heads.dtype)
