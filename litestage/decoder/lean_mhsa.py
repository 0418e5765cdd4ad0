"""The attention sub-layer in lean form: one product for queries, keys and values, their turning, and what is added."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from litestage.decoder import bfloat16, native
from litestage.decoder.decoder import Decoder, Step
from litestage.decoder.families import Family
from litestage.decoder.packed import linear
from litestage.decoder.products import Fused, Map, finish, joined, norm, norm_of, norm_weight, plain_matrix

if TYPE_CHECKING:
    from litestage.decoder.lean import LeanDecoder


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


def heads_of(attention: Any, decoder: Decoder, index: int) -> Heads:
    """The shape of layer ``index``'s attention."""
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


def mhsa(layer: Any, family: Family, heads: Heads, lean: LeanDecoder) -> Step:
    attention = layer.self_attn
    pre, post = norm_of(layer, family.mhsa_norm), norm_of(layer, family.mhsa_post_norm)
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
        lean.kernels |= native.digest() if few else {}
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

    def run(stream: Tensor, attending: Any) -> Tensor:
        if few is not None and attending.few is not None:
            return few(stream, attending)
        made = project(stream)
        if normalise is not None:
            normalise(made.view(len(made), -1, heads.width))
        if turned:
            made = turn(made, attending.turns)
        return add(stream, attending.attend(heads, made))

    return run


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
