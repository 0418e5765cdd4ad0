"""The engine's oracle: one row at a time, token by token, through the Hugging Face modules of every sub-layer.

No batch, no padding, no tree of prompts and no kernels of ours: slow and simple. What it shares with the engine is the
record of the model (:class:`litestage.decoder.Decoder`), how a token is chosen and how a row ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
from tiny import Characters, tiny_model
from torch import Tensor
from transformers import DynamicCache

from litestage.decoder import Decoder
from litestage.decoder.decoder import Path, Step, _module, stand_in
from litestage.decoder.layers import Attention, FeedForward
from litestage.engine import Batch, Decoding, Detokenise, Engine, Request
from litestage.engine.layer_schedule import LayerSchedule
from litestage.engine.rows import Row
from litestage.engine.sampler import Sampler
from litestage.plan import SkipSet, StagePlan
from litestage.plan.stage import CHANGED


@dataclass(frozen=True)
class Attending:
    """What the attention sub-layers of one forward pass share.

    Attributes:
        rotary: cosines and sines by the layers' rope, each [1, queries, channels that are turned].
        masks: by window length (None: full attention), each [1, 1, queries, slots].
        cache: where keys and values are kept.
    """

    rotary: Mapping[str, tuple[Tensor, Tensor]]
    masks: dict[int | None, Tensor]
    cache: DynamicCache


class Oracle:
    """Generates what an :class:`litestage.engine.Engine` of the same model must."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.decoder, self.tokenizer, self.eos = Decoder(model), tokenizer, Engine(model, tokenizer).eos
        self.steps: dict[tuple[str, int], Step] = {}
        for index, layer in enumerate(self.decoder.architecture.layers):
            self.steps["mhsa", index] = mhsa(layer.attention)
            self.steps["ffn", index] = ffn(layer.feed_forward)

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], plan: StagePlan, decoding: Decoding, *, confidences: bool = False
    ) -> Batch:
        detokenise, sampler = Detokenise(self.tokenizer, decoding.stop), Sampler(decoding)
        room = self.decoder.context_length
        rows = [Row(request, plan.exit, self.eos, detokenise, room, confidences) for request in requests]
        for row in rows:
            self._decode(row, plan, sampler)
        return Batch([row.generation() for row in rows], 0.0, 0.0)

    def _decode(self, row: Row, plan: StagePlan, sampler: Sampler) -> None:
        layers = LayerSchedule(self.decoder, plan, self.path, self.steps)
        rerun = self.decoder.rerun_length
        while row.stop is None:
            if not row.tokens or row.length == rerun:  # the prompt, or Phi-3's text so far with the long factors
                keys_and_values = DynamicCache()
                logits = self.forward(row.sequence, 0, keys_and_values, layers.prefill)
            else:
                path = layers.path([row], len(row.tokens))
                logits = self.forward([row.last], row.length - 1, keys_and_values, path)
            sampler.advance([row], logits[-1:])

    def path(
        self,
        plan: StagePlan,
        phase: str,
        skip: SkipSet | None = None,
        instead: Mapping[tuple[str, int], Step] = MappingProxyType({}),
    ) -> Path:
        """What :meth:`litestage.engine.runner.HostRunner.path` must do."""
        skip = plan.skip if skip is None else skip
        skip = skip if plan.phase == "both" or phase == "decode" else SkipSet()
        path: Path = []
        for name, step in self.steps.items():
            kind, layer = name
            tensor = None if plan.compensation == "none" else plan.tensors.get(f"{kind}.{layer}")
            if name in instead:
                path.append(instead[name])
            elif name in skip:
                if plan.compensation not in CHANGED and tensor is not None:
                    path.append(self._stand_in(plan.compensation, tensor))
            elif plan.compensation in CHANGED and tensor is not None and skip:
                path.append(self._changed(plan.compensation, layer, tensor))
            else:
                path.append(step)
        return path

    def _stand_in(self, form: str, tensor: Tensor) -> Step:
        instead = stand_in(form, tensor.to(self.decoder.dtype))
        return lambda stream, attending: instead(stream)

    def _changed(self, form: str, layer: int, tensor: Tensor) -> Step:
        changed = self.decoder.changed_feed_forward(form, layer, tensor)
        if changed is not None:
            return ffn(changed)
        step = ffn(self.decoder.architecture.layers[layer].feed_forward)
        return lambda stream, attending: stream + (step(stream, attending) - stream) @ tensor.to(stream)

    def forward(self, tokens: Sequence[int], start: int, keys_and_values: DynamicCache, path: Path) -> Tensor:
        """Logits [tokens, vocabulary] of tokens from position ``start`` on."""
        decoder = self.decoder
        positions = torch.arange(start, start + len(tokens))[None]
        stream = decoder.embed(torch.tensor([tokens]))
        distance = positions[0, :, None] - torch.arange(start + len(tokens))
        masks = {}
        for window in {layer.attention.heads.window for layer in decoder.architecture.layers}:
            seen = ((distance >= 0) & (distance < (window or 1 << 40)))[None, None]
            additive = torch.zeros(seen.shape, dtype=stream.dtype).masked_fill(~seen, torch.finfo(stream.dtype).min)
            masks[window] = additive if decoder.config._attn_implementation == "eager" else seen
        attending = Attending(decoder.rotary(stream, positions), masks, keys_and_values)
        for step in path:
            stream = step(stream, attending)
        return decoder.logits(stream[0])


def mhsa(attention: Attention) -> Step:
    """An attention sub-layer by Hugging Face's module, residual connection included."""
    norm, post_norm = _module(attention.norm), _module(attention.post_norm)

    def run(stream: Tensor, attending: Attending) -> Tensor:
        output, _ = attention.module(
            hidden_states=norm(stream),
            position_embeddings=None if attention.rope is None else attending.rotary[attention.rope],
            attention_mask=attending.masks[attention.heads.window],
            past_key_values=attending.cache,
        )
        return stream + post_norm(output) * attention.multiplier

    return run


def ffn(of: FeedForward) -> Step:
    """A feed-forward sub-layer by Hugging Face's module, residual connection included."""
    norm, post_norm = _module(of.norm), _module(of.post_norm)
    return lambda stream, attending: stream + post_norm(of.module(norm(stream))) * of.multiplier


@cache
def tiny_oracle(family: str) -> Oracle:
    return Oracle(tiny_model(family), Characters())
