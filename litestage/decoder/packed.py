"""Weights laid out for the CPU's matrix kernels in the place of PyTorch's row-major layout.

A decode step reads every weight once, for few rows; oneDNN's own layout reads them two to four times as fast as
row-major ones do (one core, bfloat16, 9,728 x 896 and one row: 0.6 ms against 2.6). Where our own kernel runs
(:mod:`litestage.decoder.panels`), it is faster still for a few rows and as fast for many.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from litestage.decoder import panels

SMALLEST = 128 * 1024
"""Elements below which oneDNN's layout gains nothing in float32 (measured: 688 x 128 is slower packed)."""


class PackedLinear(nn.Module):
    """A linear map [..., in] -> [..., out] whose weight lies in a kernel's own layout; for inference on a CPU.

    Attributes:
        panels: the weight in panels, where our kernel runs; or else ``packed``: in oneDNN's layout.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, int8: bool = False) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.panels = panels.Panels(weight.detach(), bias, int8) if int8 or panels.runs(weight) else None
        self.packed: Any = None if self.panels else torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def int8(self) -> bool:
        """Whether the weight is in 8 bits."""
        return self.panels is not None and self.panels.int8

    @property
    def weight(self) -> Tensor:
        """The weight [out, in] in the usual layout, from 8 bits rounded to bfloat16: a copy."""
        return self.panels.weight() if self.panels else self.packed.to_dense()

    def forward(self, inputs: Tensor) -> Tensor:
        return linear(self)(inputs)


def packs(weight: Tensor) -> bool:
    """Whether packing this weight [out, in] is possible here and worth it."""
    if panels.runs(weight):
        return True
    if weight.device.type != "cpu" or weight.numel() < SMALLEST:
        return False
    supported = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and bool(supported()))


def pack(layers: nn.Module, int8: bool = False) -> None:
    """Replaces, in place, every linear map inside ``layers`` that gains from it, or with int8 all of them; the
    row-major weights are freed."""
    for parent in list(layers.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and (int8 or packs(child.weight)):
                setattr(parent, name, PackedLinear(child.weight, child.bias, int8))


def in_int8(model: Any) -> None:
    """Puts, in place, the weights of a causal LM's projections and of its head in 8 bits; embedding and norms stay."""
    pack(model.model.layers, int8=True)
    model.lm_head = PackedLinear(model.lm_head.weight, model.lm_head.bias, int8=True)


def why_not_int8() -> str | None:
    """Why a bfloat16 model's weights cannot be multiplied in 8 bits by this machine, or None."""
    if panels.library() is not None:
        return None
    lacks = not panels.vectors()
    return "the processor has no AVX2" if lacks else "there is no C compiler (cc, or what CC names) that makes it"


def linear(module: Any) -> Any:
    """A linear module's function, without the module call around it."""
    if isinstance(module, PackedLinear):
        if module.panels is not None:
            return module.panels
        packed, bias, run = module.packed, module.bias, torch.ops.mkldnn._linear_pointwise.default
        return lambda inputs: run(inputs, packed, bias, "none", [], "")
    weight, bias = module.weight, module.bias
    return lambda inputs: torch.nn.functional.linear(inputs, weight, bias)
