"""Sub-layers in C for the decode steps of a small float32 model: there the calls between operations are most of a step.

``native.c`` is compiled when it is first wanted, in less than a second, into a directory of its own that is gone once
it is loaded. Where there is no compiler, or it fails, the sub-layers stay in PyTorch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from logging import getLogger
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from litestage.decoder.layers import Attention
    from litestage.decoder.products import Fused

FEW = 16
"""Tokens up to which this is quicker than PyTorch's own kernels (one thread: 1.7 times at 4 tokens, 1.5 at 16)."""
COMPILERS = ("cc", "gcc", "clang")
LONG, FLOAT, PLACE = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class Few(ctypes.Structure):
    """A pass of a few tokens: ``struct pass`` of native.c."""

    _fields_ = [
        *((name, LONG) for name in ("tokens", "each", "slots", "lanes", "seen")),
        *((name, PLACE) for name in ("held", "branches", "position", "branch", "slot")),
    ]


class _Heads(ctypes.Structure):
    _fields_ = [
        *((name, LONG) for name in ("queries", "keys", "width", "window")),
        ("scale", FLOAT),
        ("softcap", FLOAT),
    ]


def compiled(source: Path, *flags: str) -> Any | None:
    """A C file's functions, compiled for this processor, with a ``digest`` of what the compiler made of them; or None
    where they cannot be had."""
    compiler = shlex.split(os.environ.get("CC", "")) or list(filter(which, COMPILERS))[:1]
    if not compiler:
        return None
    with TemporaryDirectory() as folder:
        made, loaded = f"{folder}/{source.stem}.o", f"{folder}/{source.stem}.so"
        # linked by itself: with -ffast-math there, loading it would set the whole process's rounding of tiny numbers
        steps = (
            [*compiler, "-O3", "-march=native", "-ffast-math", "-fPIC", *flags, "-c", str(source), "-o", made],
            [*compiler, "-shared", *flags, made, "-o", loaded, "-lm"],
        )
        try:
            for step in steps:
                subprocess.run(step, check=True, capture_output=True, text=True, timeout=60)
            functions: Any = ctypes.CDLL(loaded)
            functions.digest = hashlib.sha256(Path(made).read_bytes()).hexdigest()[:16]
            return functions
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip()
            getLogger(__name__).info("sub-layers stay in PyTorch: %s", said)
            return None


@cache
def library() -> Any | None:
    """The functions of native.c, or None where they cannot be had."""
    functions = compiled(Path(__file__).with_suffix(".c"))
    if functions is None:
        return None
    functions.project.argtypes = [LONG, LONG, LONG, FLOAT, *[PLACE] * 5]
    functions.feed_forward.argtypes = [LONG, LONG, LONG, FLOAT, *[PLACE] * 6]
    functions.attend.argtypes = [PLACE, PLACE, LONG, *[PLACE] * 8]
    for function in (functions.project, functions.feed_forward, functions.attend):
        function.restype = None
    return functions


def digest() -> dict[str, str]:
    """Names the functions of native.c, once they run, with the digest of what was compiled."""
    functions = library()
    return {} if functions is None else {"c": functions.digest}


def mhsa(
    project: Fused, normalise: Callable[[Tensor], None] | None, attention: Attention, out: Tensor
) -> Callable[[Tensor, Any], Tensor] | None:
    """The attention sub-layer of a few tokens, or None; ``out`` is its output projection [inner, width]."""
    functions, heads, rope = library(), attention.heads, attention.rope
    if functions is None or project.floor is None or heads.width % 2:
        return None
    shape = _Heads(heads.queries, heads.keys, heads.width, heads.window or 0, heads.scale, heads.softcap or 0.0)
    shape_at, (inputs, outputs), inner = ctypes.addressof(shape), project.matrix.shape, heads.queries * heads.width
    into, bias = project.matrix.data_ptr(), None if project.bias is None else project.bias.data_ptr()
    floor, back = project.floor, out.data_ptr()

    def run(stream: Tensor, attending: Any, held: tuple[Any, ...] = (shape, project, out)) -> Tensor:
        few: Few = attending.few
        tokens, seen = few.tokens, few.seen
        stream = stream.contiguous()
        room = stream.new_empty(tokens * (outputs + max(inner, inputs)) + 4 * seen)
        made, made_at = room[: tokens * outputs], room.data_ptr()
        work = made_at + 4 * tokens * outputs
        functions.project(tokens, inputs, outputs, floor, stream.data_ptr(), into, bias, work, made_at)
        if normalise is not None:
            normalise(made.view(tokens, -1, heads.width))
        result = torch.empty_like(stream)
        chosen = work + 4 * tokens * inner + 4 * seen
        functions.attend(
            ctypes.addressof(few),
            shape_at,
            inputs,
            made_at,
            None if rope is None else attending.turns[rope].data_ptr(),
            attending.place(heads, stream.dtype),
            stream.data_ptr(),
            back,
            work,
            chosen + chosen % 8,
            result.data_ptr(),
        )
        return result

    return run


def feed_forward(project: Fused, down: Tensor) -> Callable[[Tensor, Any], Tensor] | None:
    """The feed-forward sub-layer of a few tokens, or None; ``down`` is its output projection [inner, width]."""
    functions = library()
    if functions is None or project.floor is None:
        return None
    (inner, width), floor = down.shape, project.floor
    into, bias = project.matrix.data_ptr(), None if project.bias is None else project.bias.data_ptr()
    back = down.data_ptr()

    def run(stream: Tensor, attending: Any, held: tuple[Any, ...] = (project, down)) -> Tensor:
        stream = stream.contiguous()
        tokens, result = len(stream), torch.empty_like(stream)
        room = stream.new_empty(tokens * (width + 2 * inner))
        functions.feed_forward(
            tokens,
            width,
            inner,
            floor,
            stream.data_ptr(),
            into,
            bias,
            back,
            room.data_ptr(),
            result.data_ptr(),
        )
        return result

    return run
