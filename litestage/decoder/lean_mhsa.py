"""The attention sub-layer in lean form: projections, norms of queries and keys, rotation, attention, and what is added.

Queries, keys and values of a token lie side by side, a gate behind them where the family has one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from litestage.decoder import bfloat16, native
from litestage.decoder.decoder import Step
from litestage.decoder.layers import Attention, Heads, Rope
from litestage.decoder.packed import linear
from litestage.decoder.products import Fused, Map, finish, joined, norm, plain_matrix

if TYPE_CHECKING:
    from litestage.decoder.lean import LeanDecoder


def interleaving(width: int, rope: Rope | None) -> list[int]:
    """Channels of a head in the order that puts those turned together side by side."""
    turned = 0 if rope is None else rope.channels
    pairs = [channel for first in range(turned // 2) for channel in (first, first + turned // 2)]
    return pairs + list(range(turned, width))


def mhsa(attention: Attention, rope: Rope | None, lean: LeanDecoder) -> Step:
    """The sub-layer from stream [tokens, width] to stream, residual connection included.

    Args:
        rope: how it is turned; None: not.
    """
    heads, name = attention.heads, attention.rope or ""
    order = interleaving(heads.width, rope)
    project = _fused_projections(attention, order) if lean.fused else _projections(attention, lean.joins)
    matrix = plain_matrix(attention, lean.fused)
    normalise = _query_key_norms(attention, order if lean.fused else list(range(heads.width)))
    turn = _turn_all(heads, attention.gated) if lean.fused else _turn_some(heads, order, lean.device)
    add = finish(attention, matrix)
    gate_at = (heads.queries + 2 * heads.keys) * heads.width

    def between(made: Tensor, turns: Tensor | None) -> Tensor:
        if normalise is not None:
            normalise(made.view(len(made), -1, heads.width))
        return made if turns is None else turn(made, turns)

    if not lean.fused:
        halves = rope is not None and normalise is None and rope.channels == heads.width
        plain = normalise is None and halves == (rope is not None)
        step = bfloat16.mhsa(attention, halves, None if plain else between)
        if step is not None:
            return step

    def run(stream: Tensor, attending: Any) -> Tensor:
        made = between(project(stream), None if rope is None else attending.turns[name])
        attended = attending.attend(heads, made)
        if attention.gated:
            attended = attended * torch.sigmoid(made[:, gate_at:])
        return add(stream, attended)

    if isinstance(project, Fused):
        return native.attention_walk(run, project, attention, matrix, order, lean.ropes.index(name) if rope else -1)
    return run


def _turn_all(heads: Heads, gated: bool) -> Callable[[Tensor, Tensor], Tensor]:
    columns = (heads.queries + 2 * heads.keys) * heads.width

    def turn(made: Tensor, turns: Tensor) -> Tensor:
        (made[:, :columns] if gated else made).view(torch.complex64).mul_(turns)
        return made

    return turn


def _turn_some(heads: Heads, order: list[int], device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    index, turned = torch.tensor(order, device=device), (heads.queries + heads.keys) * heads.width

    def turn(made: Tensor, turns: Tensor) -> Tensor:
        part = made[:, :turned].view(len(made), -1, heads.width)
        pairs = part.index_select(2, index).float().view(torch.complex64)
        part.copy_((pairs * turns).view(torch.float32))
        return made

    return turn


def _projections(attention: Attention, joins: bool) -> Map:
    before, parts, order = norm(attention.norm), attention.projections, _gate_last(attention)
    if len(parts) == 1 or joins:
        whole = joined(parts)
        if order is None:
            return lambda stream: whole(before(stream))
        return lambda stream: whole(before(stream)).index_select(-1, order)
    query, key, value = map(linear, parts)

    def project(stream: Tensor) -> Tensor:
        inputs = before(stream)
        made = torch.cat([query(inputs), key(inputs), value(inputs)], -1)
        return made if order is None else made.index_select(-1, order)

    return project


def _fused_projections(attention: Attention, order: list[int]) -> Map:
    parts, heads, gate_last = attention.projections, attention.heads, _gate_last(attention)
    weight = torch.cat([part.weight for part in parts])
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    rows = torch.arange(len(weight)) if gate_last is None else gate_last.cpu()
    turned = (heads.queries + heads.keys) * heads.width
    rows = torch.cat([rows[:turned].view(-1, heads.width)[:, order].flatten(), rows[turned:]])
    return Fused([(weight[rows], None if bias is None else bias[rows])], attention.norm)


def _gate_last(attention: Attention) -> Tensor | None:
    """Of a gated attention's projections, side by side: which column goes where, so that gates lie behind values."""
    if not attention.gated:
        return None
    parts, heads = attention.projections, attention.heads
    columns = torch.arange(sum(part.out_features for part in parts), device=parts[0].weight.device)
    first = 2 * heads.queries * heads.width
    queries, gates = columns[:first].view(heads.queries, 2, heads.width).unbind(1)
    return torch.cat([queries.flatten(), columns[first:], gates.flatten()])


def _query_key_norms(attention: Attention, order: list[int]) -> Callable[[Tensor], None] | None:
    """Normalises queries and keys in place: each head by itself, or (OLMo-2) all heads of a token together."""
    if attention.query_norm is None or attention.key_norm is None:
        return None
    heads, parts = attention.heads, []
    for norm_of, start, count in (
        (attention.query_norm, 0, heads.queries),
        (attention.key_norm, heads.queries, heads.keys),
    ):
        weight = norm_of.weight(torch.float32)
        together = len(weight) > heads.width
        weight = weight.view(-1, heads.width)[:, order] * math.sqrt(weight.numel())
        floor = torch.tensor(math.sqrt(weight.numel() * norm_of.epsilon), device=weight.device)
        parts.append((slice(start, start + count), weight, floor, (-2, -1) if together else (-1,)))

    def normalise(made: Tensor) -> None:
        for which, weight, floor, dims in parts:
            part = made[:, which]
            size = torch.hypot(torch.linalg.vector_norm(part.float(), dim=dims, keepdim=True), floor)
            part.copy_(part / size * weight)

    return normalise
