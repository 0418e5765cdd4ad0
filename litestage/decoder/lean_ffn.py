"""The feed-forward sub-layer in lean form: one product for gate and up where that is quicker, and what is added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from litestage.decoder import bfloat16, native
from litestage.decoder.decoder import Step
from litestage.decoder.layers import FeedForward
from litestage.decoder.packed import linear
from litestage.decoder.products import Fused, Map, finish, joined, norm, plain_matrix

if TYPE_CHECKING:
    from litestage.decoder.lean import LeanDecoder


def feed_forward(ffn: FeedForward, lean: LeanDecoder) -> Step:
    """The sub-layer from stream [tokens, width] to stream, residual connection included."""
    fused, parts, activation = lean.fused, ffn.projections, ffn.activation
    matrix = plain_matrix(ffn, fused)
    add = finish(ffn, matrix)
    if fused or len(parts) == 1 or lean.joins:
        if fused:
            project: Map = Fused([(part.weight, part.bias) for part in parts], ffn.norm)
        else:
            before, whole = norm(ffn.norm), joined(parts)
            project = lambda stream: whole(before(stream))  # noqa: E731

        def together(stream: Tensor, attending: Any) -> Tensor:
            made = project(stream)  # gate and up side by side; as_strided is the cheapest view
            tokens, half = made.shape[0], made.shape[1] // 2
            gate, up = (made.as_strided((tokens, half), (2 * half, 1), start) for start in (0, half))
            return add(stream, activation(gate).mul_(up))

        return native.feed_forward_walk(together, project, ffn, matrix) if isinstance(project, Fused) else together
    if (step := bfloat16.feed_forward(ffn)) is not None:
        return step
    normalise, of_gate, of_up = norm(ffn.norm), *map(linear, parts)

    def separate(stream: Tensor, attending: Any) -> Tensor:
        inputs = normalise(stream)
        return add(stream, activation(of_gate(inputs)).mul_(of_up(inputs)))

    return separate
