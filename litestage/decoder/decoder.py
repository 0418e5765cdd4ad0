"""The decoder: residual sub-layers over Hugging Face's own modules, in the order they run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from litestage.decoder.families import architecture, longrope_limit, rerun_length, rotations
from litestage.decoder.layers import Attention, FeedForward, Norm, Rope
from litestage.decoder.packed import PackedLinear
from litestage.decoder.work import Work
from litestage.plan import SkipSet, StagePlan
from litestage.plan.stage import CHANGED


class Cache(Protocol):
    """What Hugging Face's attention modules ask of a KV cache."""

    def update(self, keys: Tensor, values: Tensor, layer: int, **more: Any) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Attending:
    """What the attention sub-layers of one forward pass share.

    Attributes:
        rotary: cosines and sines by the layers' rope, each [rows, queries, channels that are turned].
        masks: by window length (None: full attention), each [rows, 1, queries, slots] or None where causality alone
            decides.
        cache: where keys and values are kept.
    """

    rotary: Mapping[str, tuple[Tensor, Tensor]]
    masks: dict[int | None, Tensor | None]
    cache: Cache | None


@dataclass(frozen=True)
class SubLayer:
    """One residual sub-layer: ``update(stream, attending)`` is what it adds to the residual stream."""

    kind: str
    layer: int
    update: Callable[[Tensor, Attending], Tensor]

    @property
    def name(self) -> tuple[str, int]:
        return (self.kind, self.layer)


Step = Callable[[Tensor, Attending], Tensor]
"""The residual stream after a sub-layer, or after what stands in for it, from the stream before."""

Path = list[Step]
"""Functions from residual stream to residual stream, one for every sub-layer that runs or is compensated."""


class Decoder:
    """Embedding, ``2 * layers`` residual sub-layers, final norm and head of a Hugging Face causal LM.

    Attributes:
        architecture: what is said of it by its family's entry.

    Raises:
        LiteStageError: the model's family is not supported.
    """

    def __init__(self, model: Any) -> None:
        self.config = model.config
        self.work = Work()
        self.architecture = architecture(model)
        self.body, self.head = model.model, model.lm_head
        self.layers = len(self.architecture.layers)
        self.windows = [layer.attention.heads.window for layer in self.architecture.layers]
        self.longrope_limit, self.rerun_length = longrope_limit(self.config), rerun_length(self.config)
        self.sublayers = [
            sublayer
            for index, layer in enumerate(self.architecture.layers)
            for sublayer in (
                SubLayer("mhsa", index, _mhsa(layer.attention)),
                SubLayer("ffn", index, _ffn(layer.feed_forward)),
            )
        ]
        # by a plan's own tensor, for as long as some plan holds it; then by form and layer
        self._stand_ins: MutableMapping[Tensor, dict[tuple[str, int], Step]] = WeakTensorKeyDictionary()

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
    def context_length(self) -> int:
        """Most tokens, prompt and continuation together, that one sequence may have."""
        return int(self.config.max_position_embeddings)

    @property
    def additive_masks(self) -> bool:
        """Whether the attention implementation adds its mask to the scores (eager) or reads it as true/false."""
        return self.config._attn_implementation == "eager"

    def embed(self, ids: Tensor) -> Tensor:
        """Residual stream [rows, tokens, width] of token ids [rows, tokens]."""
        stream: Tensor = self.body.embed_tokens(ids)
        multiplier = self.architecture.embedding_multiplier
        return stream if multiplier == 1.0 else stream * multiplier

    def rotary(self, stream: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """By the layers' rope, cosines and sines for positions [rows, queries]."""
        return {name: self._rotary(rope, stream, positions) for name, rope in self.architecture.ropes.items()}

    def _rotary(self, rope: Rope, stream: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [rows, queries, channels].

        longrope switches factors with length. transformers picks one set for the whole batch, by its longest
        row; here each row gets the set it would get alone.
        """
        if self.longrope_limit is not None:
            long = positions.amax(dim=1) >= self.longrope_limit
            if long.any() and not long.all():
                of_short = rotations(self.body, rope, stream, positions[~long])
                of_long = rotations(self.body, rope, stream, positions[long])
                cos, sin = (part.new_empty((*positions.shape, part.shape[-1])) for part in of_short)
                cos[~long], sin[~long] = of_short
                cos[long], sin[long] = of_long
                return cos, sin
        return rotations(self.body, rope, stream, positions)

    @property
    def steps(self) -> dict[tuple[str, int], Step]:
        """Every sub-layer by its name, with the residual connection around it."""
        return {sublayer.name: _residual(sublayer.update) for sublayer in self.sublayers}

    def path(
        self,
        plan: StagePlan,
        phase: str,
        skip: SkipSet | None = None,
        instead: Mapping[tuple[str, int], Step] = MappingProxyType({}),
    ) -> Path:
        """The functions to run, in order, in one phase (``prefill`` or ``decode``) of a stage.

        Args:
            skip: the set that a schedule has put in the place of the plan's.
            instead: by sub-layer, what runs in its place whatever the plan says.
        """
        skip = plan.skip if skip is None else skip
        skip = skip if plan.phase == "both" or phase == "decode" else SkipSet()
        path: Path = []
        for sublayer in self.sublayers:
            tensor = plan.tensors.get(f"{sublayer.kind}.{sublayer.layer}")
            if sublayer.name in instead:
                path.append(instead[sublayer.name])
            elif sublayer.name in skip:
                if plan.compensation not in ("none", *CHANGED) and tensor is not None:
                    path.append(self._stand_in(plan.compensation, sublayer.layer, tensor))
            elif plan.compensation in CHANGED and tensor is not None and skip:
                path.append(self._stand_in(plan.compensation, sublayer.layer, tensor))
            else:
                path.append(_residual(sublayer.update))
        return path

    def logits(self, stream: Tensor) -> Tensor:
        """Next-token logits [..., vocabulary], float32, of residual streams [..., width]."""
        return self.architecture.finished(self.head(self.body.norm(stream)))

    def feed_forward_inner(self, layer: int, stream: Tensor) -> Tensor:
        """What a layer's feed-forward hands to its output projection, [..., inner], from the stream [..., width]."""
        ffn = self.architecture.layers[layer].feed_forward
        made = [projection(_module(ffn.norm)(stream)) for projection in ffn.projections]
        gate, up = made if len(made) == 2 else made[0].chunk(2, -1)
        return ffn.activation(gate) * up

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

    def _stand_in(self, form: str, layer: int, tensor: Tensor) -> Step:
        """What a plan's tensor makes of a sub-layer, made once: at width 2048 that takes as long as many decode steps.

        What is made holds copies: it must not keep alive the tensor that it is found by.
        """
        made = self._stand_ins.setdefault(tensor, {})
        if (form, layer) not in made:
            if form in CHANGED:
                made[form, layer] = _residual(self._changed(form, layer, tensor))
            else:
                made[form, layer] = _ignoring_attention(stand_in(form, tensor.to(self.device, self.dtype, copy=True)))
        return made[form, layer]

    def _changed(self, form: str, layer: int, tensor: Tensor) -> Callable[[Tensor, Attending], Tensor]:
        changed = self.changed_feed_forward(form, layer, tensor)
        if changed is not None:
            return _ffn(changed)
        update = _ffn(self.architecture.layers[layer].feed_forward)
        matrix = tensor.to(self.device, self.dtype, copy=True)
        return lambda stream, attending: update(stream, attending) @ matrix


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


def _mhsa(attention: Attention) -> Callable[[Tensor, Attending], Tensor]:
    norm, module, post_norm = _module(attention.norm), attention.module, _module(attention.post_norm)
    window, rope = attention.heads.window, attention.rope

    def update(stream: Tensor, attending: Attending) -> Tensor:
        output, _ = module(
            hidden_states=norm(stream),
            position_embeddings=None if rope is None else attending.rotary[rope],
            attention_mask=attending.masks[window],
            past_key_values=attending.cache,
        )
        return post_norm(output)  # type: ignore[no-any-return]

    return _multiplied(update, attention.multiplier)


def _ffn(ffn: FeedForward) -> Callable[[Tensor, Attending], Tensor]:
    norm, mlp, post_norm = _module(ffn.norm), ffn.module, _module(ffn.post_norm)
    return _multiplied(lambda stream, attending: post_norm(mlp(norm(stream))), ffn.multiplier)


def _module(norm: Norm | None) -> Any:
    return nn.Identity() if norm is None else norm.module


def _multiplied(update: Callable[[Tensor, Attending], Tensor], by: float) -> Callable[[Tensor, Attending], Tensor]:
    return update if by == 1.0 else lambda stream, attending: update(stream, attending) * by


def _residual(update: Callable[[Tensor, Attending], Tensor]) -> Callable[[Tensor, Attending], Tensor]:
    return lambda stream, attending: stream + update(stream, attending)


def _ignoring_attention(replace: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Attending], Tensor]:
    return lambda stream, attending: replace(stream)


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
