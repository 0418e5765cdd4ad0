"""Weights of a bfloat16 model in panels, which a CPU reads in a few streams: as they are, or in 8 bits.

``bfloat16.c`` is compiled when it is first wanted (:func:`litestage.decoder.native.compiled`), for AMX, AVX512-BF16,
AVX512 or AVX2. Prompts and decode steps run over the same panels.

In 8 bits, 32 inputs of an output share a scale, as in the Q8_0 of a GGUF file: the error of a weight is at most half of
the block's largest over 127. The scale is rounded up to bfloat16. AMX multiplies inputs as they are; elsewhere they
have 16 bits, in whole numbers.
"""

from __future__ import annotations

import copy
import ctypes
import mmap
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litestage.decoder.native import LONG, PLACE, compiled

PANEL, GROUP, BLOCK = 16, 64, 32
"""Outputs of a panel, and of the group of panels that outputs are padded to; inputs that share a scale."""
PAGE, ARENA = 2**21, 2**26
"""Bytes of a huge page, and of the memory that is asked for at once."""


def vectors() -> bool:
    """Whether the processor has the vectors that ``bfloat16.c`` is written for: AVX2 with FMA, or AVX512."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


@cache
def library() -> Any | None:
    """The compiled functions, or None where the processor has no use for them or they cannot be had."""
    if not vectors():
        return None
    tiles = torch.cpu._is_amx_tile_supported() and torch.cpu._init_amx()  # which asks the system for them
    functions = compiled(Path(__file__).with_name("bfloat16.c"), "-fopenmp", *["-DAMX"] * tiles)
    if functions is None:
        return None
    functions.product.argtypes = [PLACE, LONG, LONG, PLACE, PLACE, PLACE]
    functions.project.argtypes = [PLACE, LONG, *[PLACE] * 4]
    functions.feed_forward.argtypes = [PLACE, LONG, *[PLACE] * 3]
    functions.mhsa.argtypes = [PLACE] * 7
    functions.int8_run.restype = LONG
    for function in (functions.product, functions.project, functions.feed_forward, functions.mhsa):
        function.restype = None
    return functions


def runs(weight: Tensor) -> bool:
    """Whether this weight [out, in] is best multiplied here."""
    fits = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.shape[1] % 2 == 0
    return fits and library() is not None


def run() -> int:
    """How many inputs of an output lie side by side in 8 bits: one for AMX's tiles, else two."""
    return int(library().int8_run())  # type: ignore[union-attr]


class Part(ctypes.Structure):
    """``struct part`` of bfloat16.c."""

    _fields_ = [("weight", PLACE), ("bias", PLACE), ("out", LONG), ("int8", LONG)]


class Panels:
    """A weight [out, in] and its bias as the C functions read them.

    Attributes:
        panels: as they lie in memory, inputs padded to whole blocks: [groups of outputs * 4, in / 2, 16, 2] bfloat16;
            or in 8 bits, as bytes, [groups of outputs * 4, in / 32, 16 scales and (32 / run, 16, run) weights].
        part: where they are, for C.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, int8: bool = False) -> None:
        self.outputs, self.inputs = weight.shape
        self.int8 = int8
        padded = torch.nn.functional.pad(weight, (0, -self.inputs % BLOCK, 0, -self.outputs % GROUP))
        self._hold(_in_blocks(padded) if int8 else _in_pairs(padded), bias)

    def _hold(self, laid: Tensor, bias: Tensor | None) -> None:
        taken = _memory.take(laid.nbytes // 2)
        self.panels = taken.view(laid.dtype).view(laid.shape).copy_(laid)
        self._bias = None if bias is None else bias.detach()
        self.part = Part(self.panels.data_ptr(), place(self._bias), self.outputs, self.int8)
        self._part_at = ctypes.addressof(self.part)

    def weight(self) -> Tensor:
        """The weight [out, in] in the usual layout, in bfloat16: a copy."""
        rows = _of_blocks(self.panels) if self.int8 else self.panels.transpose(1, 2).flatten(2).flatten(0, 1)
        return rows[: self.outputs, : self.inputs].contiguous()

    def __call__(self, inputs: Tensor, add: Tensor | None = None) -> Tensor:
        """[..., out] of inputs [..., in], plus the bias, plus ``add`` [..., out]."""
        inputs = inputs.contiguous()
        made = inputs.new_empty(*inputs.shape[:-1], self.outputs)
        tokens, added = inputs.numel() // self.inputs, None if add is None else add.contiguous()
        library().product(self._part_at, tokens, self.inputs, inputs.data_ptr(), place(added), made.data_ptr())  # type: ignore[union-attr]
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Panels:
        made = copy.copy(self)
        made._hold(self.panels, None if self._bias is None else self._bias.clone())
        return made


def _in_pairs(weight: Tensor) -> Tensor:
    """A weight [out, in], whole groups and blocks of it: [out / 16, in / 2, 16, 2]."""
    return weight.view(-1, PANEL, weight.shape[1] // 2, 2).transpose(1, 2)


def _in_blocks(weight: Tensor) -> Tensor:
    """A weight [out, in], whole groups and blocks of it, in 8 bits: bytes [out / 16, in / 32, 32 + 512]."""
    blocks = weight.float().view(-1, PANEL, weight.shape[1] // BLOCK, BLOCK).transpose(1, 2)
    scales = _rounded_up(blocks.abs().amax(dim=3) / 127)
    whole = (blocks / scales.float().clamp(min=torch.finfo(torch.float32).tiny)[..., None]).round().to(torch.int8)
    runs = whole.view(*whole.shape[:2], PANEL, -1, run()).transpose(2, 3).flatten(2)
    return torch.cat([scales.view(torch.uint8), runs.view(torch.uint8)], dim=2)


def _of_blocks(held: Tensor) -> Tensor:
    """The weight [out, in] that :func:`_in_blocks` put so."""
    scales, runs = held[..., : 2 * PANEL].contiguous().view(torch.bfloat16), held[..., 2 * PANEL :].view(torch.int8)
    whole = runs.reshape(*runs.shape[:2], -1, PANEL, run()).transpose(2, 3).flatten(3)
    return (whole * scales.float()[..., None]).bfloat16().transpose(1, 2).flatten(2).flatten(0, 1)


def _rounded_up(numbers: Tensor) -> Tensor:
    """The least bfloat16 numbers that are not smaller than these, which are not negative."""
    near = numbers.bfloat16()
    return torch.where(near.float() < numbers, (near.view(torch.int16) + 1).view(torch.bfloat16), near)


class HugePages:
    """Memory in few and large pages, where Linux has them: weights are read faster through them."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None
        self._used = self._size = 0

    def take(self, elements: int) -> Tensor:
        """Room for bfloat16 elements, at a multiple of 64 bytes."""
        if not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(elements, dtype=torch.bfloat16)
        if self._memory is None or self._used + 2 * elements > self._size:
            self._size = max(ARENA, 2 * elements) // PAGE * PAGE + 2 * PAGE  # one more than needed, to begin at a page
            self._memory = mmap.mmap(-1, self._size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self._memory.madvise(mmap.MADV_HUGEPAGE)
            self._used = -torch.frombuffer(self._memory, dtype=torch.uint8).data_ptr() % PAGE
        # a tensor of its own, not a slice of one that was made in inference mode, which could not be written outside it
        taken = torch.frombuffer(self._memory, dtype=torch.bfloat16, count=elements, offset=self._used)
        self._used += -(-2 * elements // 64) * 64
        return taken


_memory = HugePages()


def place(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
