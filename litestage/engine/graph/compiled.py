"""Compiled sub-layers for static steps: a few regions, compiled once, serve every layer and every skip set.

A step of a small model on a GPU takes as long as its kernels are many. A compiler makes them few but needs seconds, and
a search tries a new skip set every few; so it is not given a step, but the regions that all steps consist of
(:mod:`litestage.decoder.regions`): before and after the attention, the feed-forward, the head, the move to the next
token. How many tokens a step has is built in, how long the KV cache is is not. PyTorch's own attention stands between.
What comes out is recorded as a CUDA graph like any other step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from logging import getLogger
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from litestage.decoder.decoder import Decoder, Step
from litestage.decoder.layers import Attention, FeedForward, Heads
from litestage.decoder.lean import LeanDecoder
from litestage.decoder.lean_mhsa import interleaving
from litestage.decoder.packed import PackedLinear
from litestage.decoder.regions import combining, feeding_forward, heading, product, projecting, scale
from litestage.engine.attention import ForwardContext
from litestage.engine.cache import KVCache

MAX_COMPILED_TOKENS = 8
"""Tokens of a step that is compiled at most: each number is compiled anew, and the more there are the less it gains."""
COMPILING = ("auto", "on", "off")


class Regions:
    """The compiled make of a decoder's sub-layers and head.

    Attributes:
        sublayers: by (kind, layer), to stand in a path for the lean ones.
        failed: why they are not to be used, once compiling has failed.
    """

    def __init__(self, decoder: Decoder, lean: LeanDecoder) -> None:
        self.failed: str | None = None
        self._architecture = architecture = decoder.architecture
        # the compiler times a few makes of each kernel, and products of one row are among those that it may fuse
        tuned = decoder.device.type == "cuda"
        self._options: dict[str, Any] = {"coordinate_descent_tuning": True} if tuned else {}
        self._orders: dict[str, Tensor] = {}  # by rope, the channels' order in which the fused make keeps keys
        if lean.fused:
            for name, rope in architecture.ropes.items():
                self._orders[name] = torch.tensor(interleaving(lean.heads.width, rope), device=decoder.device)
        self._regions: dict[object, Any] = {}
        self._head = product([decoder.head], architecture.norm)
        self.sublayers: dict[tuple[str, int], Step] = {}
        for index, layer in enumerate(architecture.layers):
            self.sublayers["mhsa", index] = self._mhsa(layer.attention)
            self.sublayers["ffn", index] = self._ffn(layer.feed_forward)

    def turns(self, table: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cosines and sines [positions, half of what is turned, 2] of the lean sub-layers' tables of rotations."""
        ropes = self._architecture.ropes
        return {
            name: torch.view_as_real(turns)[:, : ropes[name].channels // 2].contiguous()
            for name, turns in table.items()
        }

    def logits(self, stream: Tensor) -> Tensor:
        """Next-token logits [tokens, vocabulary], float32."""
        divisor, softcap = self._architecture.logits_divisor, self._architecture.logits_softcap
        logits: Tensor = self.region("head", lambda: heading(divisor, softcap))(stream, self._head)
        return logits

    def region(self, key: object, make: Callable[[], Callable[..., Any]]) -> Any:
        """What ``make`` returns, compiled; made once for a key."""
        if key not in self._regions:
            self._regions[key] = torch.compile(make(), fullgraph=True, dynamic=False, options=self._options)
        return self._regions[key]

    def prepare(self, run: Callable[[], None]) -> bool:
        """Runs a step for the first time, which compiles what is new in it; False where that fails."""
        try:
            # other models' regions, and those for other numbers of tokens, count as the same code's
            limits = torch._dynamo.config.patch(recompile_limit=10**4, accumulated_recompile_limit=10**5)
            with limits, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a compiler's about its own parts
                run()
        except Exception as error:  # whatever a compiler raises: the lean sub-layers do the same
            said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            self.failed = f"sub-layers could not be compiled: {' '.join(said[:2])}"  # whose compiler, and what it said
            getLogger(__name__).warning("decoding goes on without a compiler: %s", self.failed)
        return self.failed is None

    def _mhsa(self, attention: Attention) -> Step:
        into = product(attention.projections, attention.norm)
        out = product([attention.output], None, attention.post_norm)
        norms = scale(attention.query_norm), scale(attention.key_norm)
        heads, rope = attention.heads, attention.rope
        shape = heads.queries, heads.keys, heads.width
        project = self.region(("project", rope is None), lambda: projecting(*shape, attention.gated))
        combine = self.region("combine", lambda: combining(*shape, attention.multiplier))
        order = self._orders.get(rope or "")

        def mhsa(stream: Tensor, attending: Any) -> Tensor:
            flat, rotations = attending.flat(heads, stream.dtype), attending.rotations.get(rope or "")
            asked, gate = project(stream, into, norms, rotations, order, attending.slots, flat, attending.lanes)
            added: Tensor = combine(stream, attending.over(heads, asked), out, gate)
            return added

        return mhsa

    def _ffn(self, ffn: FeedForward) -> Step:
        into, out = product(ffn.projections, ffn.norm), product([ffn.output], None, ffn.post_norm)
        run = self.region("ffn", lambda: feeding_forward(ffn.activation, ffn.multiplier))
        return lambda stream, attending: run(stream, into, out)


class RegionContext(ForwardContext):
    """One decode step's pass, as the compiled sub-layers see it.

    Attributes:
        lanes: how many.
        slots: of the new tokens, [tokens].
        rotations: by rope, cosines and sines [tokens, half of what is turned, 2].
    """

    def __init__(self, cache: KVCache, new: Tensor, seen: int, turns: Mapping[str, Tensor]) -> None:
        super().__init__(cache, new, seen, seen)
        self.lanes, self.slots = self._count, self._slots
        self.rotations = {name: table.index_select(0, self._positions) for name, table in turns.items()}

    def flat(self, heads: Heads, dtype: torch.dtype) -> Tensor:
        """A layer's keys and values [2 * heads, all lanes' slots, width]."""
        flat = self._cache.layer(heads, dtype).flat
        torch._dynamo.mark_dynamic(flat, 1)
        return flat

    def over(self, heads: Heads, asked: Tensor) -> Tensor:
        """Attention of queries [lanes, key heads, queries, width] over their lanes' slots; as many come out."""
        keys, values = self._cache.layer(heads, asked.dtype).views(self._seen)
        mask = self._mask_of(heads.window, heads.queries // heads.keys, asked.dtype)
        if heads.softcap is None:
            return F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, scale=heads.scale)
        scores = torch.tanh(asked @ keys.transpose(2, 3) * (heads.scale / heads.softcap)) * heads.softcap + mask
        return scores.softmax(-1, dtype=torch.float32).to(values.dtype) @ values


def why_not_compiled(decoder: Decoder, compiling: str) -> str | None:
    """Why a decoder's steps are not compiled, or None where they are: asked for, or a GPU with a compiler for it."""
    if compiling == "off":
        return "engine.compile is off"
    if compiling == "auto":
        if decoder.device.type != "cuda":
            return "engine.compile is auto: on CUDA only"
        from torch.utils._triton import has_triton

        if not has_triton():
            return "Triton is not installed, or not for this GPU"
    if any(isinstance(module, PackedLinear) for module in (*decoder.body.modules(), decoder.head)):
        return "weights are packed for the CPU"
    return None
