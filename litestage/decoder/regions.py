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

from litestage.decoder.products import norm_weight, side_by_side

Region = Callable[..., Tensor]


class Product(NamedTuple):
    """A product with one matrix [out, in], and root-mean-square norms before and after it, where there are any."""

    before: Tensor | None
    weight: Tensor
    bias: Tensor | None
    after: Tensor | None


def product(parts: list[Any], before: Any, after: Any = None) -> Product:
    """Of linear modules with one input, and of the norms before and after them."""
    weight, bias = side_by_side(parts)
    return Product(scale(before), weight, bias, scale(after))


def scale(module: Any) -> Tensor | None:
    """A norm's weight in float32."""
    return None if module is None else norm_weight(module, torch.float32).detach()


def projecting(queries: int, keys: int, width: int, turned: bool, eps: float) -> Region:
    def project(
        stream: Tensor,
        into: Product,
        norms: tuple[Tensor | None, Tensor | None],
        turns: Tensor,
        order: Tensor | None,
        slots: Tensor,
        flat: Tensor,
        lanes: int,
    ) -> Tensor:
        """Writes keys and values to their slots of ``flat`` [2 * keys, all slots, width]; returns the queries [lanes,
        keys, queries per key * tokens, width]."""
        tokens = stream.shape[0]
        parts = torch.split_with_sizes(_times(stream, into, eps), [queries * width, keys * width, keys * width], 1)
        asked, known = (
            part.reshape(tokens, -1, width)
            if weight is None
            else _normalised(part.reshape(tokens, -1, weight.shape[0]), weight, eps).view(tokens, -1, width)
            for part, weight in zip(parts, norms, strict=False)
        )
        if turned:
            asked, known = _turned(asked, turns), _turned(known, turns)
            if order is not None:  # as the fused make keeps its keys
                asked, known = asked[..., order], known[..., order]
        flat.index_copy_(1, slots, torch.cat([known, parts[2].view(tokens, keys, width)], 1).transpose(0, 1))
        asked = asked.reshape(lanes, tokens // lanes, keys, queries // keys, width)
        return asked.permute(0, 2, 3, 1, 4).reshape(lanes, keys, -1, width)

    return project


def combining(queries: int, keys: int, width: int, eps: float) -> Region:
    def combine(stream: Tensor, attended: Tensor, out: Product) -> Tensor:
        tokens, lanes = stream.shape[0], attended.shape[0]
        heads = attended.reshape(lanes, keys, queries // keys, tokens // lanes, width).permute(0, 3, 1, 2, 4)
        return stream + _times(heads.reshape(tokens, queries * width), out, eps)

    return combine


def feeding_forward(activation: Callable[[Tensor], Tensor], eps: float) -> Region:
    def feed_forward(stream: Tensor, into: Product, out: Product) -> Tensor:
        gate, up = _times(stream, into, eps).chunk(2, 1)
        return stream + _times(activation(gate) * up, out, eps)

    return feed_forward


def heading(cap: float | None, eps: float) -> Region:
    def head(stream: Tensor, product: Product) -> Tensor:
        logits = _times(stream, product, eps).float()
        return torch.tanh(logits / cap) * cap if cap else logits

    return head


def _times(inputs: Tensor, product: Product, eps: float) -> Tensor:
    if product.before is not None:
        inputs = _normalised(inputs, product.before, eps)
    out = F.linear(inputs, product.weight)  # a bias in here would keep the compiler from fusing what is around it
    if product.bias is not None:
        out = out + product.bias
    return out if product.after is None else _normalised(out, product.after, eps)


def _normalised(stream: Tensor, scale: Tensor, eps: float) -> Tensor:
    wide = stream.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * scale).to(stream.dtype)


def _turned(heads: Tensor, turns: Tensor) -> Tensor:
    """Rotates channel i of [tokens, heads, width] with channel i + half, in float32; the channels beyond stay."""
    half, wide = turns.shape[1], heads.float()
    cos, sin = turns[:, None, :, 0], turns[:, None, :, 1]
    first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1).to(heads.dtype)
