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

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from litestage.decoder import native, panels
from litestage.decoder.decoder import Decoder, Step, stand_in
from litestage.decoder.layers import Norm
from litestage.decoder.lean_ffn import feed_forward
from litestage.decoder.lean_mhsa import mhsa
from litestage.decoder.packed import PackedLinear, linear, pack, packs
from litestage.decoder.products import Fused, Map, norm
from litestage.plan.skip import SubLayerName
from litestage.plan.stage import CHANGED

FUSED_BYTES = 64 * 2**20
"""Models up to this size, in bytes of float32 weights, are copied into fused form."""


class LeanDecoder:
    """Lean sub-layers, embedding and head of a decoder.

    Attributes:
        sublayers: by (kind, layer), in the order they run.
        fused: which make of the two.
        counts: whether sub-layers in C are to be told of passes of a few tokens.
        kernels: our own kernels that are in use, ``c`` or ``panels``, each with a digest of what was compiled.
    """

    def __init__(self, decoder: Decoder) -> None:
        body = decoder.body
        size = sum(parameter.nbytes for parameter in body.layers.parameters())
        self.fused = decoder.dtype == torch.float32 and size <= FUSED_BYTES
        if not self.fused:
            pack(body.layers)
            if not isinstance(decoder.head, PackedLinear) and packs(decoder.head.weight):
                decoder.head = PackedLinear(decoder.head.weight, decoder.head.bias)
        self.joins = not self.fused and decoder.device.type == "cuda"
        self.device, self.longrope_limit = decoder.device, decoder.longrope_limit
        self._decoder, self._architecture = decoder, decoder.architecture
        self._table: dict[str, Tensor] = {}
        self._places = native.Places(self._table)
        self._one = torch.ones(1, 1, 1, dtype=torch.complex64, device=decoder.device)
        # by a plan's own tensor, for as long as some plan holds it; then by form and layer
        self._stand_ins: MutableMapping[Tensor, dict[tuple[str, int], Step]] = WeakTensorKeyDictionary()
        self.sublayers: dict[SubLayerName, Step] = {}
        self.kernels: dict[str, str] = {}
        ropes = self._architecture.ropes
        self.ropes = list(ropes)
        for index, layer in enumerate(self._architecture.layers):
            rope = None if layer.attention.rope is None else ropes[layer.attention.rope]
            self.sublayers["mhsa", index] = mhsa(layer.attention, rope, self)
            self.sublayers["ffn", index] = feed_forward(layer.feed_forward, self)
        if any(isinstance(step, native.Walk) for step in self.sublayers.values()):
            self.kernels["c"] = native.library().digest  # type: ignore[union-attr]
        if any(map(_in_panels, (*body.layers.modules(), decoder.head))):
            self.kernels["panels"] = panels.library().digest  # type: ignore[union-attr]
        self.counts = self.fused or _in_panels(decoder.head)
        self.heads = self._architecture.layers[0].attention.heads
        self._native = self.fused and self.device.type == "cpu" and native.library() is not None
        self._head = self._finishing(decoder.head, self._architecture.norm)

    def stand_in(self, form: str, layer: int, tensor: Tensor) -> Step:
        """What a plan's tensor makes of a sub-layer: in its place or, ``merged`` and ``tuned``, a changed feed-forward.

        It is made once: at width 2048 that takes as long as many decode steps. It holds copies, so that it does not
        keep alive the tensor that it is found by.
        """
        made = self._stand_ins.setdefault(tensor, {})
        if (form, layer) not in made:
            made[form, layer] = self._stand_in(form, layer, tensor)
        return made[form, layer]

    def _stand_in(self, form: str, layer: int, tensor: Tensor) -> Step:
        decoder = self._decoder
        if form in CHANGED and (changed := decoder.changed_feed_forward(form, layer, tensor)) is not None:
            return feed_forward(changed, self)
        copied = tensor.to(self.device, decoder.dtype, copy=True)
        if form in CHANGED:
            return lambda stream, attending: stream + decoder.feed_forward_update(layer, stream) @ copied
        instead = stand_in(form, copied)
        return lambda stream, attending: instead(stream)

    def logits(self, stream: Tensor, in_c: bool = False) -> Tensor:
        """Next-token logits [tokens, vocabulary], float32.

        Args:
            in_c: by C where it can: not where PyTorch's operations are recorded.
        """
        if in_c and self._native and isinstance(self._head, Fused):
            return self._architecture.finished(native.project(self._head, stream))
        return self._architecture.finished(self._head(stream))

    def _finishing(self, head: Any, before: Norm) -> Map:
        """The final norm and the head."""
        if self.fused and head.weight.nbytes <= FUSED_BYTES:
            return Fused([(head.weight, head.bias)], before)
        normalised, product = norm(before), linear(head)
        return lambda stream: product(normalised(stream))

    def turns(self, positions: Tensor, most: int, long: Tensor | None = None) -> dict[str, Tensor]:
        """By rope, complex rotations of positions [tokens], none above ``most``; the table behind them is made when
        needed.

        Args:
            long: [tokens], true for tokens of prompts that are longer than longrope's limit: all of such a prompt is
                turned by the long factors.
        """
        turns = {name: table.index_select(0, positions) for name, table in self.table(most).items()}
        if long is not None:
            for name, of_long in self._rotations(positions[long]).items():
                turns[name][long] = of_long
        return {name: self._expanded(of_rope) for name, of_rope in turns.items()}

    def _expanded(self, turns: Tensor) -> Tensor:
        """Rotations [tokens, half the head width] as the attention takes them."""
        turns, tokens = turns[:, None], len(turns)
        if not self.fused:
            return turns
        half, turned = self.heads.width // 2, self.heads.queries + self.heads.keys
        return torch.cat([turns.expand(tokens, turned, half), self._one.expand(tokens, self.heads.keys, half)], 1).view(
            tokens, -1
        )

    def table(self, most: int) -> dict[str, Tensor]:
        """By rope, complex rotations of all positions up to ``most`` and more, [positions, half the head width].

        With longrope, a position's are those that a generated token gets there: the short factors up to its limit.
        """
        table = self._table  # other threads may put another in its place
        if any(most >= len(turns) for turns in table.values()) or not table:
            everything = torch.arange(1 << (most + 1).bit_length(), device=self.device)
            table, limit = self._rotations(everything), self.longrope_limit
            if limit is not None and len(everything) > limit:
                short = self._rotations(everything[:limit])
                table = {name: torch.cat([short[name], turns[limit:]]) for name, turns in table.items()}
            self._table = table
        return table

    def places(self, most: int) -> native.Places:
        """Where in memory the tables up to ``most`` are."""
        table, places = self.table(most), self._places
        if places.of is not table:
            places = self._places = native.Places(table)
        return places

    def _rotations(self, positions: Tensor) -> dict[str, Tensor]:
        """By rope, complex rotations of one row's positions [tokens]: [tokens, half the head width]."""
        rotations = self._decoder.rotary(torch.zeros(1, device=self.device), positions[None])
        return {name: self._complex(*rotation) for name, rotation in rotations.items()}

    def _complex(self, cos: Tensor, sin: Tensor) -> Tensor:
        half = cos.shape[-1] // 2
        turns = torch.view_as_real(torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float()))
        turns = F.pad(turns, (0, 0, 0, self.heads.width // 2 - half)).contiguous()
        turns[:, half:, 0] = 1.0  # channels beyond the rotary ones are not turned
        return torch.view_as_complex(turns)


def _in_panels(module: object) -> bool:
    return isinstance(module, PackedLinear) and module.panels is not None
