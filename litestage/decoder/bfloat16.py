"""Sub-layers in C for a bfloat16 model whose weights lie in panels: its decode step is the reading of its weights."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from litestage.decoder.native import FLOAT, LONG, PLACE
from litestage.decoder.packed import PackedLinear
from litestage.decoder.panels import PANEL, Panels, Part, library, place

if TYPE_CHECKING:
    from litestage.decoder.decoder import Step
    from litestage.decoder.layers import Attention, FeedForward, Norm
    from litestage.decoder.native import Few

LONGEST = 16384
"""Slots up to which an attention's scores are kept on a thread's stack."""


class _Norm(ctypes.Structure):
    _fields_ = [("width", LONG), ("epsilon", FLOAT), ("weight", PLACE)]


class _Attention(ctypes.Structure):
    _fields_ = [
        ("norm", _Norm),
        *((name, Part) for name in ("query", "key", "value", "out")),
        *((name, LONG) for name in ("queries", "keys", "width", "window", "turned")),
        ("scale", FLOAT),
    ]


class _FeedForward(ctypes.Structure):
    _fields_ = [("norm", _Norm), ("gate", Part), ("up", Part), ("down", Part)]


def mhsa(attention: Attention, turned: bool, between: Callable[[Tensor, Tensor | None], Tensor] | None) -> Step | None:
    """An attention sub-layer, or None where a projection is not in panels or the C functions have no word for it.

    Args:
        turned: whether queries and keys are turned in C, by pairs of channels half a head's width apart.
        between: what PyTorch does to queries, keys and values, and their rotations, before they attend; None: nothing.
    """
    parts = _panels([*attention.projections, attention.output])
    if parts is None or len(parts) != 4 or attention.gated or not _plainly_added(attention):
        return None
    (query, *_, out), heads, rope = parts, attention.heads, attention.rope
    norm, weight = _norm(attention.norm, query.inputs)
    shape = _Attention(
        norm,
        *(part.part for part in parts),
        *(heads.queries, heads.keys, heads.width, heads.window or 0, turned, heads.scale),
    )
    at, functions = ctypes.addressof(shape), library()
    whole = between is None and heads.softcap is None and heads.width % PANEL == 0
    width, inner = query.inputs, heads.queries * heads.width
    row = inner + 2 * heads.keys * heads.width

    def run(stream: Tensor, attending: Any, held: tuple[Any, ...] = (parts, weight, shape)) -> Tensor:
        stream, few = stream.contiguous(), attending.few
        if whole and few is not None and few.seen <= LONGEST:
            return all_of(stream, attending, few)
        room, made = torch.empty_like(stream), stream.new_empty(len(stream), row)
        turns = None if rope is None else attending.turns[rope]
        functions.project(at, len(stream), stream.data_ptr(), place(turns), room.data_ptr(), made.data_ptr())  # type: ignore[union-attr]
        if between is not None:
            made = between(made, turns)
        return out(attending.attend(heads, made), stream)

    def all_of(stream: Tensor, attending: Any, few: Few) -> Tensor:
        room, made = stream.new_empty(few.tokens * (width + row + inner)), torch.empty_like(stream)
        cache = attending.place(heads, stream.dtype)
        turns = place(None if rope is None else attending.turns[rope])
        into = cache, room.data_ptr(), made.data_ptr()
        functions.mhsa(at, ctypes.addressof(few), stream.data_ptr(), turns, *into)  # type: ignore[union-attr]
        return made

    return run


def feed_forward(ffn: FeedForward) -> Step | None:
    """A feed-forward sub-layer with SiLU, or None where a projection is not in panels or it is of another form, as with
    biases before the SiLU."""
    parts = _panels([*ffn.projections, ffn.output])
    if parts is None or len(parts) != 3 or ffn.activation is not torch.nn.functional.silu or not _plainly_added(ffn):
        return None
    gate, up, down = parts
    if gate.part.bias or up.part.bias:
        return None
    norm, weight = _norm(ffn.norm, gate.inputs)
    shape = _FeedForward(norm, *(part.part for part in parts))
    at, functions, room_width = ctypes.addressof(shape), library(), gate.inputs + down.inputs

    def run(stream: Tensor, attending: Any, held: tuple[Any, ...] = (parts, weight, shape)) -> Tensor:
        stream = stream.contiguous()
        room, made = stream.new_empty(len(stream) * room_width), torch.empty_like(stream)
        functions.feed_forward(at, len(stream), stream.data_ptr(), room.data_ptr(), made.data_ptr())  # type: ignore[union-attr]
        return made

    return run


def _panels(linear: list[Any]) -> list[Panels] | None:
    parts = [one.panels for one in linear if isinstance(one, PackedLinear) and one.panels is not None]
    return parts if len(parts) == len(linear) else None


def _plainly_added(sublayer: Attention | FeedForward) -> bool:
    return sublayer.post_norm is None and sublayer.multiplier == 1.0


def _norm(norm: Norm | None, width: int) -> tuple[_Norm, Tensor | None]:
    """For C, and the weight, which must be kept."""
    weight = None if norm is None else norm.weight(torch.float32)
    return _Norm(width, 0.0 if norm is None else norm.epsilon, place(weight)), weight
