"""Sub-layers dropped at random while a model is tuned, so that it later bears to be run without some of them.

LayerSkip's recipe (Elhoushi et al., ACL 2024, arXiv 2404.16710): every sequence goes without layer ``l`` of ``L`` with
probability ``rate (2^(l / (L-1)) - 1)``, rising with depth from 0 to the rate. Here sub-layers are drawn apart, as a
plan skips them, and every stage has a rate of its own. Differs from LayerSkip: no loss at earlier layers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MIN_ROOM = 64
"""Sequences that what is kept has room for, at least."""


class SublayerDropout:
    """Multiplies the updates of a Hugging Face model's sub-layers by 0 where they are dropped.

    Args:
        rates: by stage, the probability with which the last layer's sub-layers are dropped.
        seed: two runs of one seed drop the same.
    """

    def __init__(self, model: Any, rates: Mapping[str, float], seed: int) -> None:
        self.rates, self._seed = rates, seed
        layers = model.get_decoder().layers
        depth = torch.arange(len(layers), dtype=torch.float64) / max(1, len(layers) - 1)
        self._rises = (torch.exp2(depth) - 1).repeat_interleave(2)
        self._sublayers = [sublayer for layer in layers for sublayer in (layer.self_attn, layer.mlp)]
        for sublayer in self._sublayers:
            # a buffer of each, and one hook for all: what is compiled for a layer is then good for every other
            sublayer.register_buffer("keep", None, persistent=False)
            sublayer.register_forward_hook(_multiply)

    def drawn(self, stages: Sequence[str], step: int, part: int) -> Tensor:
        """Which sub-layers a micro-batch's sequences, of the stages named, keep: [sub-layers, sequences] of 0 and 1.

        It depends on the seed, the step and the part of the step alone, so a run that goes on draws what it would have.
        """
        mixed = random.Random(f"{self._seed}/{step}/{part}").getrandbits(32)  # of a seed torch takes the last 32 bits
        generator = torch.Generator().manual_seed(mixed)
        rates = torch.tensor([self.rates.get(stage, 0.0) for stage in stages], dtype=torch.float64)
        chances = torch.rand(len(self._rises), len(stages), generator=generator, dtype=torch.float64)
        return (chances >= self._rises[:, None] * rates).float()

    @contextmanager
    def dropping(self, stages: Sequence[str], step: int, part: int, device: torch.device) -> Iterator[None]:
        """While it is open the model runs without what is drawn."""
        # as long for other counts of sequences: what is compiled is compiled for this length
        room = max(MIN_ROOM, 1 << (len(stages) - 1).bit_length())
        drawn = functional.pad(self.drawn(stages, step, part), (0, room - len(stages))).to(device)
        for sublayer, keep in zip(self._sublayers, drawn, strict=True):
            sublayer.keep = keep[:, None, None].clone()
        try:
            yield
        finally:
            for sublayer in self._sublayers:
                sublayer.keep = None


def _multiply(sublayer: Any, inputs: Any, outputs: Any) -> Any:
    """The update, [sequences, tokens, width], times 0 in the sequences that go without the sub-layer."""
    if sublayer.keep is None:
        return outputs
    update = outputs[0] if isinstance(outputs, tuple) else outputs
    update = update * sublayer.keep[: update.shape[0]].to(update.dtype)
    return (update, *outputs[1:]) if isinstance(outputs, tuple) else update
