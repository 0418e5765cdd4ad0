"""Sub-layers of a small float32 model in C, all that follow one another in one call: there the calls between operations
are most of a step.

``native.c`` is compiled when it is first wanted, in a few seconds, into a directory of its own that is gone once
it is loaded. Where there is no compiler, or it fails, the sub-layers stay in PyTorch; so does a sub-layer that C has no
word for, between the others.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from logging import getLogger
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litestage.decoder.layers import gelu_tanh
from litestage.errors import LiteStageError

if TYPE_CHECKING:
    from litestage.decoder.decoder import Step
    from litestage.decoder.layers import Attention, FeedForward, Heads, Norm
    from litestage.decoder.products import Fused

FEW = 64
"""Tokens of a pass of a model in panels up to which its attention runs in C (:mod:`litestage.decoder.bfloat16`)."""
MOST_PAIRS, MOST_PAIRS_ALONE = 2**14, 2**18
"""Tokens times slots up to which a walk is quicker than PyTorch's own kernels, on several threads and on one."""
EIGHT, MOST_EIGHTS = 8, 32
"""A head's width in C is so many channels, or up to so many times as many."""
COMPILERS = ("cc", "gcc", "clang")
LONG, FLOAT, PLACE = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p


class Few(ctypes.Structure):
    """A pass of a few tokens: ``struct pass`` of native.c.

    Attributes:
        tables: by which queries and keys are turned; ``turns`` is their address.
    """

    _fields_ = [
        *((name, LONG) for name in ("tokens", "each", "slots", "lanes", "seen")),
        *((name, PLACE) for name in ("held", "branches", "position", "branch", "slot", "turns")),
    ]
    tables: Places


class Places:
    """Where in memory some tensors are.

    Attributes:
        of: the tensors, by name.
        address: of the array of their addresses.
    """

    def __init__(self, of: Mapping[str, Tensor]) -> None:
        self.of, self._array = of, (PLACE * len(of))(*[tensor.data_ptr() for tensor in of.values()])
        self.address = ctypes.addressof(self._array)


class _Product(ctypes.Structure):
    _fields_ = [("inputs", LONG), ("outputs", LONG), ("matrix", PLACE), ("bias", PLACE)]


class _Norm(ctypes.Structure):
    _fields_ = [("weight", PLACE), ("floor", FLOAT)]


class _Heads(ctypes.Structure):
    _fields_ = [
        *((name, LONG) for name in ("queries", "keys", "width", "window", "rope", "gated", "together")),
        ("scale", FLOAT),
        ("softcap", FLOAT),
        ("query", _Norm),
        ("key", _Norm),
    ]


class SubLayer(ctypes.Structure):
    """One sub-layer in C's words: ``struct sublayer`` of native.c.

    Attributes:
        held: the tensors whose addresses are in it.
        room: floats that C needs for a token to work in.
    """

    _fields_ = [
        *(("into", _Product), ("back", _Product), ("floor", FLOAT), ("post", _Norm)),
        *(("gelu", LONG), ("heads", _Heads)),
    ]
    held: tuple[Tensor | None, ...]
    room: int


def compiled(source: Path, *flags: str) -> Any | None:
    """A C file's functions, compiled for this processor, with a ``digest`` of what the compiler made of them; or None
    where they cannot be had."""
    try:
        compiler = shlex.split(os.environ.get("CC", "")) or list(filter(which, COMPILERS))[:1]
    except ValueError as error:
        raise LiteStageError(
            f"CC is {os.environ['CC']!r}, which is no command ({error}); correct or unset it."
        ) from None
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
    if functions is not None:
        functions.walk.argtypes = [PLACE, LONG, PLACE, LONG, *[PLACE] * 3]
        functions.project.argtypes = [LONG, PLACE, FLOAT, *[PLACE] * 3]
        functions.walk.restype = functions.project.restype = None
    return functions


def attention_walk(
    run: Step, project: Fused, attention: Attention, matrix: Tensor | None, order: list[int], rope: int
) -> Step:
    """An attention sub-layer as a walk, or ``run``, the same in PyTorch, where C has no word for it.

    Args:
        matrix: its output projection [inner, width], if that is all that is behind it.
        order: of a head's channels, as ``project`` makes them.
        rope: which of the decoder's ropes turns it; -1: none.
    """
    heads, norms = attention.heads, (attention.query_norm, attention.key_norm)
    word = _word(project, attention, matrix)
    if word is None or heads.width % EIGHT or heads.width > MOST_EIGHTS * EIGHT:
        return run
    query, key = (
        None if norm is None else _weight(norm).view(-1, heads.width)[:, order].contiguous() for norm in norms
    )
    together = query is not None and query.numel() > heads.width
    shape = heads.queries, heads.keys, heads.width, heads.window or 0, rope, attention.gated, together
    of_query, of_key = (_norm(*pair) for pair in zip(norms, (query, key), strict=True))
    word.heads = _Heads(*shape, heads.scale, heads.softcap or 0.0, of_query, of_key)
    word.held += (query, key)
    word.room = word.into.inputs + word.into.outputs + word.back.inputs
    return Walk([run], [word], [heads])


def feed_forward_walk(run: Step, project: Fused, ffn: FeedForward, matrix: Tensor | None) -> Step:
    """A feed-forward sub-layer as a walk, or ``run`` where C has no word for it."""
    word = _word(project, ffn, matrix)
    if word is None or ffn.activation not in (F.silu, gelu_tanh):
        return run
    word.gelu = ffn.activation is gelu_tanh
    word.room = word.into.inputs + word.into.outputs
    return Walk([run], [word], [])


def _word(project: Fused, sublayer: Attention | FeedForward, matrix: Tensor | None) -> SubLayer | None:
    """What both kinds have; None where C cannot be had or has no word for it."""
    output, post, multiplier = sublayer.output, sublayer.post_norm, sublayer.multiplier
    plain = type(output) is nn.Linear and (post is None or multiplier == 1.0)
    if library() is None or not plain or output.weight.device.type != "cpu":
        return None
    back = (output.weight.detach().T * multiplier).contiguous() if matrix is None else matrix
    bias = None if output.bias is None else output.bias.detach() * multiplier
    weight = None if post is None else _weight(post)
    word = SubLayer(_product(project.matrix, project.bias), _product(back, bias))
    word.floor, word.post = -1.0 if project.floor is None else project.floor, _norm(post, weight)
    word.held = (project.matrix, project.bias, back, bias, weight)
    return word


def project(by: Fused, stream: Tensor) -> Tensor:
    """The stream [tokens, width] over its norm, times a matrix: [tokens, outputs]."""
    stream, word = stream.contiguous(), _product(by.matrix, by.bias)
    unit, made = torch.empty_like(stream), stream.new_empty(len(stream), word.outputs)
    places = (part.data_ptr() for part in (stream, unit, made))
    library().project(len(stream), ctypes.addressof(word), -1.0 if by.floor is None else by.floor, *places)  # type: ignore[union-attr]
    return made


def _weight(norm: Norm) -> Tensor:
    """A norm's weight with the root of its width multiplied into it."""
    weight = norm.weight(torch.float32)
    return (weight * math.sqrt(len(weight))).contiguous()


def _norm(norm: Norm | None, weight: Tensor | None) -> _Norm:
    if norm is None or weight is None:
        return _Norm(None, 0.0)
    return _Norm(weight.data_ptr(), math.sqrt(weight.numel() * norm.epsilon))


def _product(matrix: Tensor, bias: Tensor | None) -> _Product:
    return _Product(*matrix.shape, matrix.data_ptr(), None if bias is None else bias.data_ptr())


class Walk:
    """Sub-layers that follow one another: one call of C where a pass allows it, else a function after the other.

    Attributes:
        steps: the same in PyTorch.
        attends: whether an attention is among them.
    """

    def __init__(self, steps: Sequence[Step], words: Sequence[SubLayer], heads: Sequence[Heads]) -> None:
        self.steps, self.attends, self._words, self._heads = list(steps), bool(heads), list(words), list(heads)
        self._array = (SubLayer * len(words))(*words)
        self._at, self._room = ctypes.addressof(self._array), max(word.room for word in words)

    def __call__(self, stream: Tensor, attending: Any) -> Tensor:
        few: Few | None = attending.few
        if few is None:
            for step in self.steps:
                stream = step(stream, attending)
            return stream
        stream = stream.clone()
        room = stream.new_empty(len(stream) * self._room + 3 * few.seen + 8)
        caches = attending.places(self._heads, stream.dtype)
        at = ctypes.addressof(few), len(self._words), self._at, len(stream)
        library().walk(*at, caches, room.data_ptr(), stream.data_ptr())  # type: ignore[union-attr]
        return stream

    def then(self, other: Walk) -> Walk:
        return Walk([*self.steps, *other.steps], [*self._words, *other._words], [*self._heads, *other._heads])


def joined(path: Sequence[Step]) -> list[Step]:
    """The same path in as few calls as there can be; what follows the last attention stays apart from it."""
    last = max((at for at, step in enumerate(path) if isinstance(step, Walk) and step.attends), default=-1)
    short: list[Step] = []
    for at, step in enumerate(path):
        if short and at != last + 1 and isinstance(step, Walk) and isinstance(short[-1], Walk):
            short[-1] = short[-1].then(step)
        else:
            short.append(step)
    return short
