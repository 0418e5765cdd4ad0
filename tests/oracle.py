"""The engine's oracle: one row at a time, token by token, through the Hugging Face modules of every sub-layer.

No batch, no padding, no tree of prompts and no kernels of ours: slow and simple. What it shares with the engine is the
list of sub-layers (:class:`litestage.decoder.Decoder`), how a token is chosen and how a row ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from tiny import Characters, tiny_model
from torch import Tensor
from transformers import DynamicCache

from litestage.decoder import Decoder
from litestage.decoder.decoder import Attending, Path
from litestage.engine import Batch, Decoding, Detokenise, Engine, Request
from litestage.engine.layer_schedule import LayerSchedule
from litestage.engine.rows import Row
from litestage.engine.sampler import Sampler
from litestage.plan import StagePlan


class Oracle:
    """Generates what an :class:`litestage.engine.Engine` of the same model must."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.decoder, self.tokenizer, self.eos = Decoder(model), tokenizer, Engine(model, tokenizer).eos

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], plan: StagePlan, decoding: Decoding, *, confidences: bool = False
    ) -> Batch:
        detokenise, sampler = Detokenise(self.tokenizer, decoding.stop), Sampler(decoding)
        rows = [Row(request, plan.exit, self.eos, detokenise, confidences) for request in requests]
        for row in rows:
            row.fit(self.decoder.context_length, None)
            self._decode(row, plan, sampler)
        return Batch([row.generation() for row in rows], 0.0, 0.0)

    def _decode(self, row: Row, plan: StagePlan, sampler: Sampler) -> None:
        layers = LayerSchedule(self.decoder, plan, self.decoder.path, self.decoder.steps)
        rerun = self.decoder.rerun_length
        while row.stop is None:
            if not row.tokens or row.length == rerun:  # the prompt, or Phi-3's text so far with the long factors
                keys_and_values = DynamicCache()
                logits = self.forward(row.sequence, 0, keys_and_values, layers.prefill)
            else:
                path = layers.path([row], len(row.tokens))
                logits = self.forward([row.last], row.length - 1, keys_and_values, path)
            sampler.advance([row], logits[-1:])

    def forward(self, tokens: Sequence[int], start: int, keys_and_values: DynamicCache, path: Path) -> Tensor:
        """Logits [tokens, vocabulary] of tokens from position ``start`` on."""
        decoder = self.decoder
        positions = torch.arange(start, start + len(tokens))[None]
        stream = decoder.embed(torch.tensor([tokens]))
        distance = positions[0, :, None] - torch.arange(start + len(tokens))
        masks = {}
        for window in set(decoder.windows):
            seen = ((distance >= 0) & (distance < (window or 1 << 40)))[None, None]
            additive = torch.zeros(seen.shape, dtype=stream.dtype).masked_fill(~seen, torch.finfo(stream.dtype).min)
            masks[window] = additive if decoder.additive_masks else seen
        attending = Attending(decoder.rotary(stream, positions), masks, keys_and_values)
        for step in path:
            stream = step(stream, attending)
        return decoder.logits(stream[0])


@cache
def tiny_oracle(family: str) -> Oracle:
    return Oracle(tiny_model(family), Characters())
