"""The same sub-layers in as few tensor operations as they need, made once from the Hugging Face modules' weights.

A small model's decode step is nearly all dispatch: transformers calls some 25 operations per layer, here it is 14.
A stream is [tokens, width]: rows lie side by side, and only the attention knows which token belongs to which.

Two makes of each sub-layer, of one form. *Fused*, for small float32 models, copies the weights: the norm's weight is
multiplied into the projections behind it, queries, keys and values are one product, and their channels are
interleaved so that the rotary embedding is one complex multiplication. A few tokens of it run in C where there is a
compiler (:mod:`litestage.decoder.native`). *Shared* copies nothing and uses the modules'
own weights: packed where that is faster (:mod:`litestage.decoder.packed`); on a GPU, where each kernel costs more than
its bytes, those of one input are put side by side in memory, and multiplied as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder import bfloat16, native
from litestage.decoder.decoder import Decoder, Step
from litestage.decoder.families import Family
from litestage.decoder.packed import PackedLinear, linear, pack, packs
from litestage.decoder.products import Fused, Map, finish, joined, norm, norm_weight, plain_matrix

FUSED_BYTES = 64 * 2**20
"""Models up to this size, in bytes of float32 weights, are copied into fused form."""


@dataclass(frozen=True)
class Heads:
    """The shape of one attention: query heads, key-value heads, their width; and how scores are made."""

    layer: int
    queries: int
    keys: int
    width: int
    scale: float
    window: int | None
    softcap: float | None


class Attends(Protocol):
    """A pass, as the attention sees it."""

    turns: Tensor
    """Complex rotations: [tokens, 1, half the head width]; fused, [tokens, all heads' halves], ones for values."""

    few: native.Few | None
    """What the sub-layers in C need of a pass of a few tokens; None where PyTorch's are to run."""

    def attend(self, heads: Heads, made: Tensor) -> Tensor:
        """From queries, keys and values side by side [tokens, all], the heads' outputs [tokens, queries * width]."""
        ...


class LeanDecoder:
    """Lean sub-layers, embedding and head of a decoder.

    Attributes:
        sublayers: by (kind, layer), functions from stream to stream, to stand in a path for the decoder's own.
        fused: which make of the two.
        counts: whether sub-layers in C are to be told of passes of a few tokens.
    """

    def __init__(self, decoder: Decoder) -> None:
        body = decoder.body
        size = sum(parameter.nbytes for parameter in body.layers.parameters())
        self.fused = decoder.dtype == torch.float32 and size <= FUSED_BYTES
        if not self.fused:
            pack(body.layers)
            if packs(decoder.head.weight):
                decoder.head = PackedLinear(decoder.head.weight, decoder.head.bias)
        self.joins = not self.fused and decoder.device.type == "cuda"
        self.device = decoder.device
        self._decoder = decoder
        self._table = torch.empty(0, 0)
        self._one = torch.ones(1, 1, 1, dtype=torch.complex64, device=decoder.device)
        self.sublayers: dict[tuple[str, int], Step] = {}
        for index, layer in enumerate(body.layers):
            heads = _heads(layer.self_attn, decoder, index)
            self.sublayers["mhsa", index] = _mhsa(layer, decoder.family, heads, self)
            self.sublayers["ffn", index] = _ffn(layer, decoder.family, self)
        self.counts = self.fused or getattr(decoder.head, "panels", None) is not None
        self.heads = _heads(body.layers[0].self_attn, decoder, 0)
        self._norm, self._head = norm(body.norm), linear(decoder.head)
        self._cap = getattr(decoder.config, "final_logit_softcapping", None)

    def logits(self, stream: Tensor) -> Tensor:
        """Next-token logits [tokens, vocabulary], float32."""
        logits = self._head(self._norm(stream)).float()
        return torch.tanh(logits / self._cap) * self._cap if self._cap else logits

    def turns(self, positions: Tensor, most: int) -> Tensor:
        """Complex rotations of positions [tokens], none above ``most``; the table behind them is made when needed."""
        turns = self.table(most).index_select(0, positions)[:, None]
        if not self.fused:
            return turns
        tokens, half, turned = len(positions), self.heads.width // 2, self.heads.queries + self.heads.keys
        return torch.cat([turns.expand(tokens, turned, half), self._one.expand(tokens, self.heads.keys, half)], 1).view(
            tokens, -1
        )

    def table(self, most: int) -> Tensor:
        """Complex rotations of all positions up to ``most`` and more, [positions, half the head width]."""
        if most >= len(self._table):
            everything = torch.arange(1 << (most + 1).bit_length(), device=self.device)[None]
            cos, sin = self._decoder.rotary(torch.zeros(1, device=self.device), everything)
            half = cos.shape[-1] // 2
            table = torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float())
            self._table = F.pad(torch.view_as_real(table), (0, 0, 0, self.heads.width // 2 - half)).contiguous()
            self._table[:, half:, 0] = 1.0  # channels beyond the rotary ones are not turned
            self._table = torch.view_as_complex(self._table)
        return self._table

    def turns_halves(self) -> bool:
        """Whether a head's channels are turned by pairs half its width apart, all of them."""
        order = self.interleaving()
        return order == [channel for one in range(len(order) // 2) for channel in (one, one + len(order) // 2)]

    def interleaving(self) -> list[int]:
        """Channels of a head in the order that puts those turned together side by side."""
        positions = torch.zeros(1, 1, dtype=torch.long, device=self._decoder.device)
        rotary = self._decoder.rotary(torch.zeros(1, device=self._decoder.device), positions)[0].shape[-1]
        width = _heads(self._decoder.body.layers[0].self_attn, self._decoder, 0).width
        pairs = [channel for first in range(rotary // 2) for channel in (first, first + rotary // 2)]
        return pairs + list(range(rotary, width))


def _heads(attention: Any, decoder: Decoder, index: int) -> Heads:
    config, width = decoder.config, attention.head_dim
    return Heads(
        layer=index,
        queries=config.num_attention_heads,
        keys=config.num_key_value_heads,
        width=width,
        scale=float(attention.scaling),
        window=decoder.windows[index],
        softcap=getattr(attention, "attn_logit_softcapping", None),
    )


# --- attention ---


def _mhsa(layer: Any, family: Family, heads: Heads, lean: LeanDecoder) -> Step:
    attention = layer.self_attn
    pre, post = _named(layer, family.mhsa_norm), _named(layer, family.mhsa_post_norm)
    turned = bool(getattr(attention, "use_rope", True))
    order = lean.interleaving() if turned else list(range(heads.width))
    project = (
        _fused_projections(attention, pre, heads, order) if lean.fused else _projections(attention, pre, lean.joins)
    )
    matrix = plain_matrix(attention.o_proj, post, lean.fused)
    normalise = _query_key_norms(attention, heads, order if lean.fused else list(range(heads.width)))
    turn = _turn_all if lean.fused else _turn_some(heads, order, lean.device)
    add = finish(attention.o_proj, post, matrix)
    few = None
    if isinstance(project, Fused) and matrix is not None and lean.device.type == "cpu":
        few = native.mhsa(project, normalise, heads, turned, matrix)
    if not lean.fused and post is None:
        halves = turned and normalise is None and lean.turns_halves()

        def between(made: Tensor, turns: Tensor) -> Tensor:
            if normalise is not None:
                normalise(made.view(len(made), -1, heads.width))
            return turn(made, turns) if turned else made

        plain = normalise is None and halves == turned
        step = bfloat16.mhsa(attention, pre, heads, halves, None if plain else between)
        if step is not None:
            return step

    def mhsa(stream: Tensor, attending: Any) -> Tensor:
        if few is not None and attending.few is not None:
            return few(stream, attending)
        made = project(stream)
        if normalise is not None:
            normalise(made.view(len(made), -1, heads.width))
        if turned:
            made = turn(made, attending.turns)
        return add(stream, attending.attend(heads, made))

    return mhsa


def _turn_all(made: Tensor, turns: Tensor) -> Tensor:
    made.view(torch.complex64).mul_(turns)
    return made


def _turn_some(heads: Heads, order: list[int], device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    index, turned = torch.tensor(order, device=device), (heads.queries + heads.keys) * heads.width

    def turn(made: Tensor, turns: Tensor) -> Tensor:
        part = made[:, :turned].view(len(made), -1, heads.width)
        pairs = part.index_select(2, index).float().view(torch.complex64)
        part.copy_((pairs * turns).view(torch.float32))
        return made

    return turn


def _projections(attention: Any, pre: Any, joins: bool) -> Map:
    before = norm(pre)
    if hasattr(attention, "qkv_proj"):
        whole = linear(attention.qkv_proj)
        return lambda stream: whole(before(stream))
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    if joins:
        together = joined(parts)
        return lambda stream: together(before(stream))
    query, key, value = map(linear, parts)

    def project(stream: Tensor) -> Tensor:
        inputs = before(stream)
        return torch.cat([query(inputs), key(inputs), value(inputs)], -1)

    return project


def _fused_projections(attention: Any, pre: Any, heads: Heads, order: list[int]) -> Map:
    parts = [attention.qkv_proj] if hasattr(attention, "qkv_proj") else [attention.q_proj, attention.k_proj]
    parts += [] if hasattr(attention, "qkv_proj") else [attention.v_proj]
    weight = torch.cat([part.weight for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    turned = (heads.queries + heads.keys) * heads.width
    rows = torch.arange(len(weight)).view(-1, heads.width)
    rows = torch.cat([rows[: heads.queries + heads.keys, order].flatten(), torch.arange(turned, len(weight))])
    return Fused([(weight[rows], None if bias is None else bias[rows])], pre)


def _query_key_norms(attention: Any, heads: Heads, order: list[int]) -> Callable[[Tensor], None] | None:
    """Normalises queries and keys in place: each head by itself, or (OLMo-2) all heads of a token together."""
    if not hasattr(attention, "q_norm"):
        return None
    parts = []
    for module, start, count in (
        (attention.q_norm, 0, heads.queries),
        (attention.k_norm, heads.queries, heads.keys),
    ):
        weight = norm_weight(module, torch.float32)
        together = len(weight) > heads.width
        weight = weight.view(-1, heads.width)[:, order] * math.sqrt(weight.numel())
        floor = torch.tensor(math.sqrt(weight.numel() * module.variance_epsilon), device=weight.device)
        parts.append((slice(start, start + count), weight, floor, (-2, -1) if together else (-1,)))

    def normalise(made: Tensor) -> None:
        for which, weight, floor, dims in parts:
            part = made[:, which]
            size = torch.hypot(torch.linalg.vector_norm(part.float(), dim=dims, keepdim=True), floor)
            part.copy_(part / size * weight)

    return normalise


# --- feed-forward ---


def _ffn(layer: Any, family: Family, lean: LeanDecoder) -> Step:
    mlp, fused = layer.mlp, lean.fused
    pre, post = _named(layer, family.ffn_norm), _named(layer, family.ffn_post_norm)
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


def _named(layer: Any, name: str | None) -> Any:
    return None if name is None else getattr(layer, name)
