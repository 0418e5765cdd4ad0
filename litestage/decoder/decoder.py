"""The decoder: a Hugging Face causal LM as embedding, residual sub-layers, final norm and head."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from litestage.decoder.families import architecture, longrope_limit, rerun_length, rotations
from litestage.decoder.layers import FeedForward, Norm
from litestage.decoder.packed import PackedLinear
from litestage.decoder.work import Work
from litestage.plan.skip import SubLayerName

Step = Callable[[Tensor, Any], Tensor]
"""The residual stream after a sub-layer, or after what stands in for it, from the stream before and the forward pass
(:class:`litestage.engine.attention.ForwardContext`)."""

Path = list[Step]
"""Functions from residual stream to residual stream, one for every sub-layer that runs or is compensated."""


class Decoder:
    """Embedding, ``2 * layers`` residual sub-layers, final norm and head of a Hugging Face causal LM.

    Attributes:
        architecture: what is said of it by its family's entry.
        sublayers: their names in the order they run.

    Raises:
        LiteStageError: the model's family is not supported.
    """

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.work = Work()
        self.architecture = architecture(model)
        self.body, self.head = model.model, model.lm_head
        self.layers = len(self.architecture.layers)
        self.longrope_limit, self.rerun_length = longrope_limit(self.config), rerun_length(self.config)
        self.sublayers: list[SubLayerName] = [(kind, layer) for layer in range(self.layers) for kind in ("mhsa", "ffn")]

    @property
    def device(self) -> torch.device:
        return self.body.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.body.embed_tokens.weight.dtype

    @property
    def int8(self) -> bool:
        """Whether the weights of projections and head are in 8 bits."""
        return isinstance(self.head, PackedLinear) and self.head.int8

    @property
    def width(self) -> int:
        """Channels of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def embeddings(self) -> int:
        """How many token ids have one."""
        return int(self.body.embed_tokens.weight.shape[0])

    @property
    def context_length(self) -> int:
        """Most tokens, prompt and continuation together, that one sequence may have."""
        return int(self.config.max_position_embeddings)

    def embed(self, ids: Tensor) -> Tensor:
        """Residual stream [rows, tokens, width] of token ids [rows, tokens]."""
        stream: Tensor = self.body.embed_tokens(ids)
        multiplier = self.architecture.embedding_multiplier
        return stream if multiplier == 1.0 else stream * multiplier

    def rotary(self, stream: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """By the layers' rope, cosines and sines [1, tokens, channels] of one text's positions [1, tokens].

        longrope's factors go by the largest of them.
        """
        return {name: rotations(self.body, rope, stream, positions) for name, rope in self.architecture.ropes.items()}

    def logits(self, stream: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary], float32, of residual streams [..., width]."""
        return self.architecture.finished(self.head(self.body.norm(stream)))

    def feed_forward_inner(self, layer: int, stream: Tensor) -> Tensor:
        """What a layer's feed-forward hands to its output projection, [..., inner], from the stream [..., width]."""
        ffn = self.architecture.layers[layer].feed_forward
        inputs = _module(ffn.norm)(stream)
        made = [projection(inputs) for projection in ffn.projections]
        gate, up = made if len(made) == 2 else made[0].chunk(2, -1)
        return ffn.activation(gate) * up

    def feed_forward_update(self, layer: int, stream: Tensor) -> Tensor:
        """What a layer's feed-forward adds to the stream [..., width]; as much."""
        ffn = self.architecture.layers[layer].feed_forward
        update: Tensor = _module(ffn.post_norm)(ffn.output(self.feed_forward_inner(layer, stream)))
        return update if ffn.multiplier == 1.0 else update * ffn.multiplier

    def changed_feed_forward(self, form: str, layer: int, tensor: Tensor) -> FeedForward | None:
        """A layer's feed-forward with another output projection; None where no other one would do.

        Args:
            form: ``merged``: the projection times a matrix [width, width]; ``tuned``: the weight [inner, width] itself.
        """
        ffn = self.architecture.layers[layer].feed_forward
        if form == "merged" and ffn.post_norm is not None:
            return None
        mlp = copy.copy(ffn.module)
        mlp._modules = dict(mlp._modules)
        mlp.down_proj = _times(ffn.output, tensor) if form == "merged" else _with_weight(ffn.output, tensor.T)
        return replace(ffn, module=mlp)


def _times(linear: nn.Linear | PackedLinear, matrix: Tensor) -> nn.Linear | PackedLinear:
    """A linear map whose outputs are ``linear``'s times ``matrix``, multiplied in float64."""
    weight = linear.weight
    matrix = matrix.to(weight.device).double()
    product = (matrix.T @ weight.double()).to(weight.dtype)
    bias = None if linear.bias is None else (linear.bias.double() @ matrix).to(weight.dtype)
    return _with_weight(linear, product, bias)


def _with_weight(
    linear: nn.Linear | PackedLinear, weight: Tensor, bias: Tensor | None = None
) -> nn.Linear | PackedLinear:
    """A linear map of the same kind, device and type with another weight [out, in], and bias unless it is its own."""
    own = linear.bias if linear.bias is not None else linear.weight
    weight, bias = weight.to(own.device, own.dtype, copy=True), linear.bias if bias is None else bias
    if isinstance(linear, PackedLinear):
        return PackedLinear(weight.contiguous(), bias, linear.int8)
    made = nn.Linear(linear.in_features, linear.out_features, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


def _module(norm: Norm | None) -> Any:
    return nn.Identity() if norm is None else norm.module


def stand_in(compensation: str, tensor: Tensor) -> Callable[[Tensor], Tensor]:
    """What a skipped sub-layer, or with ``block`` (``x + x M``) a whole cut, becomes.

    The other forms are those of :mod:`litestage.profile.compensation`.
    """
    form, _, rank = compensation.partition(":")
    if form == "scale":
        return lambda stream: stream * tensor
    if form == "affine":
        slope, bias = tensor
        return lambda stream: torch.addcmul(bias, stream, slope)
    if form in ("block", "linear"):
        # the stream's own part is merged into the matrix: one product in all
        own = torch.eye(tensor.shape[1], dtype=tensor.dtype, device=tensor.device)
        if form == "block":
            square = (tensor + own).T.contiguous()
            return lambda stream: torch.nn.functional.linear(stream, square)
        whole, bias = tensor[:-1] + own, tensor[-1]
        return lambda stream: torch.nn.functional.linear(stream, whole.T, bias)
    narrow, wide, bias = tensor[: int(rank)], tensor[int(rank) : -1], tensor[-1]
    return lambda stream: stream + torch.nn.functional.linear(stream, narrow) @ wide + bias
