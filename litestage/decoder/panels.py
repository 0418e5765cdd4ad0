"""bfloat16 weights in panels, which a CPU with AVX512-BF16 reads in a few streams and multiplies two inputs at a time.

``bfloat16.c`` is compiled when it is first wanted (:func:`litestage.decoder.native.compiled`). Prompts and decode steps
run over the same panels. A processor with AMX is left to oneDNN's own kernels (:mod:`litestage.decoder.packed`).
"""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litestage.decoder.native import LONG, PLACE, compiled

PANEL, GROUP = 16, 64
"""Outputs of a panel, and of the group of panels that outputs are padded to."""
PAGE, ARENA = 2**21, 2**26
"""Bytes of a huge page, and of the memory that is asked for at once."""


@cache
def library() -> Any | None:
    """The compiled functions, or None where the processor has no use for them or they cannot be had."""
    if not torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return None
    functions = compiled(Path(__file__).with_name("bfloat16.c"), "-fopenmp")
    if functions is None:
        return None
    functions.product.argtypes = [PLACE, LONG, LONG, PLACE, PLACE, PLACE]
    functions.project.argtypes = [PLACE, LONG, *[PLACE] * 4]
    functions.feed_forward.argtypes = [PLACE, LONG, *[PLACE] * 3]
    functions.mhsa.argtypes = [PLACE] * 7
    for function in (functions.product, functions.project, functions.feed_forward, functions.mhsa):
        function.restype = None
    return functions


def runs(weight: Tensor) -> bool:
    """Whether this weight [out, in] can be multiplied here."""
    fits = weight.dtype == torch.bfloat16 and weight.device.type == "cpu" and weight.shape[1] % 2 == 0
    return fits and library() is not None


class Part(ctypes.Structure):
    """``struct part`` of bfloat16.c."""

    _fields_ = [("weight", PLACE), ("bias", PLACE), ("out", LONG)]


class Panels:
    """A weight [out, in] and its bias as the C functions read them.

    Attributes:
        panels: [groups of outputs * 4, in / 2, 16, 2].
        part: where they are, for C.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.outputs, self.inputs = weight.shape
        padded = torch.nn.functional.pad(weight, (0, 0, 0, -self.outputs % GROUP))
        laid = padded.view(-1, PANEL, self.inputs // 2, 2).transpose(1, 2)
        self.panels = _memory.take(laid.numel()).view(laid.shape).copy_(laid)
        self._bias = None if bias is None else bias.detach()
        self.part = Part(self.panels.data_ptr(), place(self._bias), self.outputs)
        self._part_at = ctypes.addressof(self.part)

    def weight(self) -> Tensor:
        """The weight [out, in] in the usual layout: a copy."""
        return self.panels.transpose(1, 2).reshape(-1, self.inputs)[: self.outputs].contiguous()

    def __call__(self, inputs: Tensor, add: Tensor | None = None) -> Tensor:
        """[..., out] of inputs [..., in], plus the bias, plus ``add`` [..., out]."""
        inputs = inputs.contiguous()
        made = inputs.new_empty(*inputs.shape[:-1], self.outputs)
        tokens, added = inputs.numel() // self.inputs, None if add is None else add.contiguous()
        library().product(self._part_at, tokens, self.inputs, inputs.data_ptr(), place(added), made.data_ptr())  # type: ignore[union-attr]
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Panels:
        return Panels(self.weight(), None if self._bias is None else self._bias.clone())


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
