"""The feed-forward sub-layer in lean form: one product for gate and up where that is quicker, and what is added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F

from litestage.decoder import bfloat16, native
from litestage.decoder.decoder import Step
from litestage.decoder.families import Family
from litestage.decoder.packed import linear
from litestage.decoder.products import Fused, Map, finish, joined, norm, norm_of, plain_matrix

if TYPE_CHECKING:
    from litestage.decoder.lean import LeanDecoder


def feed_forward(layer: Any, family: Family, lean: LeanDecoder) -> Step:
    mlp, fused = layer.mlp, lean.fused
    pre, post = norm_of(layer, family.ffn_norm), norm_of(layer, family.ffn_post_norm)
    merged = hasattr(mlp, "gate_up_proj")
    activation = _activation(mlp)
    matrix = plain_matrix(mlp.down_proj, post, fused)
    add = finish(mlp.down_proj, post, matrix)
    few = None
    if fused or merged or lean.joins:
        parts = [mlp.gate_up_proj] if merged else [mlp.gate_proj, mlp.up_proj]
        if fused:
            project: Map = Fused([(part.weight, part.bias) for part in parts], pre)
            if matrix is not None and activation is F.silu and matrix.device.type == "cpu":
                few = native.feed_forward(project, matrix)  # type: ignore[arg-type]
                lean.kernels |= native.digest() if few else {}
        else:
            before, whole = norm(pre), linear(parts[0]) if merged else joined(parts)
            project = lambda stream: whole(before(stream))  # noqa: E731

        def ffn(stream: Tensor, attending: Any) -> Tensor:
            if few is not None and attending.few is not None:
                return few(stream, attending)
            made = project(stream)  # gate and up side by side; as_strided is the cheapest view
            tokens, half = made.shape[0], made.shape[1] // 2
            gate, up = (made.as_strided((tokens, half), (2 * half, 1), start) for start in (0, half))
            return add(stream, activation(gate).mul_(up))

        return ffn
    if activation is F.silu and post is None and (step := bfloat16.feed_forward(mlp, pre)) is not None:
        return step
    normalise, of_gate, of_up = norm(pre), linear(mlp.gate_proj), linear(mlp.up_proj)

    def separate(stream: Tensor, attending: Any) -> Tensor:
        inputs = normalise(stream)
        return add(stream, activation(of_gate(inputs)).mul_(of_up(inputs)))

    return separate


def _activation(mlp: Any) -> Map:
    module = getattr(mlp, "act_fn", None) or mlp.activation_fn
    return F.silu if type(module).__name__ in ("SiLU", "SiLUActivation") else module
