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
from litestage.decoder.products import epsilon, norm_weight

if TYPE_CHECKING:
    from litestage.decoder.decoder import Step
    from litestage.decoder.lean_mhsa import Heads
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


def mhsa(
    attention: Any, pre: Any, heads: Heads, turned: bool, between: Callable[[Tensor, Tensor], Tensor] | None
) -> Step | None:
    """An attention sub-layer, or None where a projection is not in panels.

    Args:
        pre: the norm before it, or None.
        turned: whether queries and keys are turned in C, by pairs of channels half a head's width apart.
        between: what PyTorch does to queries, keys and values, and their rotations, before they attend; None: nothing.
    """
    parts = _panels(attention, "q_proj", "k_proj", "v_proj", "o_proj")
    if parts is None:
        return None
    (query, *_, out), weight = parts, None if pre is None else norm_weight(pre, torch.float32)
    shape = _Attention(
        _Norm(query.inputs, epsilon(pre), place(weight)),
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
        turns = attending.turns.data_ptr()
        functions.project(at, len(stream), stream.data_ptr(), turns, room.data_ptr(), made.data_ptr())  # type: ignore[union-attr]
        if between is not None:
            made = between(made, attending.turns)
        return out(attending.attend(heads, made), stream)

    def all_of(stream: Tensor, attending: Any, few: Few) -> Tensor:
        room, made = stream.new_empty(few.tokens * (width + row + inner)), torch.empty_like(stream)
        cache, turns = attending.place(heads, stream.dtype), attending.turns.data_ptr()
        into = cache, room.data_ptr(), made.data_ptr()
        functions.mhsa(at, ctypes.addressof(few), stream.data_ptr(), turns, *into)  # type: ignore[union-attr]
        return made

    return run


def feed_forward(mlp: Any, pre: Any) -> Step | None:
    """A feed-forward sub-layer with SiLU, or None where a projection is not in panels."""
    parts = _panels(mlp, "gate_proj", "up_proj", "down_proj")
    if parts is None:
        return None
    (gate, _, down), weight = parts, None if pre is None else norm_weight(pre, torch.float32)
    shape = _FeedForward(_Norm(gate.inputs, epsilon(pre), place(weight)), *(part.part for part in parts))
    at, functions, room_width = ctypes.addressof(shape), library(), gate.inputs + down.inputs

    def run(stream: Tensor, attending: Any, held: tuple[Any, ...] = (parts, weight, shape)) -> Tensor:
        stream = stream.contiguous()
        room, made = stream.new_empty(len(stream) * room_width), torch.empty_like(stream)
        functions.feed_forward(at, len(stream), stream.data_ptr(), room.data_ptr(), made.data_ptr())  # type: ignore[union-attr]
        return made

    return run


def _panels(module: Any, *names: str) -> list[Panels] | None:
    linear = [getattr(module, name, None) for name in names]
    parts = [one.panels for one in linear if isinstance(one, PackedLinear) and one.panels is not None]
    return parts if len(parts) == len(names) else None
