"""What a decoder is made of, whatever its family: the record that every path asks (:mod:`litestage.decoder.families`).

It names Hugging Face's own modules and says all that their code does with them. Linear maps are looked up when asked
for, because they may have been packed (:mod:`litestage.decoder.packed`) since the record was made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F


def gelu_tanh(gate: Tensor) -> Tensor:
    """Gemma's activation, in the form with a hyperbolic tangent."""
    return F.gelu(gate, approximate="tanh")


@dataclass(frozen=True, eq=False)
class Norm:
    """A root-mean-square norm over the last dimension.

    Attributes:
        module: Hugging Face's own.
        epsilon: what is added to the mean square.
        centred: whether its weight is stored less one.
    """

    module: Any
    epsilon: float
    centred: bool

    def weight(self, dtype: torch.dtype | None = None) -> Tensor:
        """What is multiplied by, [width]."""
        weight: Tensor = self.module.weight if dtype is None else self.module.weight.to(dtype)
        return weight + 1 if self.centred else weight


@dataclass(frozen=True)
class Heads:
    """The shape of one attention: query heads, key-value heads, their width; and how scores are made.

    Attributes:
        scale: what scores are multiplied by.
        window: how many positions back a query sees, itself included; None: all.
        softcap: what scores are capped at by a hyperbolic tangent; None: not.
    """

    layer: int
    queries: int
    keys: int
    width: int
    scale: float
    window: int | None
    softcap: float | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ResidualSubLayer:
    """What both kinds of sub-layer have.

    Attributes:
        module: Hugging Face's own.
        norm, post_norm: before and after it.
        names: of its projections in.
        output_name: of its projection out.
        multiplier: of what is added to the residual stream.
    """

    module: Any
    norm: Norm | None
    post_norm: Norm | None
    names: tuple[str, ...]
    output_name: ClassVar[str]
    multiplier: float = 1.0

    @property
    def projections(self) -> list[Any]:
        """The linear maps from the stream: those of its kind, or one of all of them side by side."""
        return [getattr(self.module, name) for name in self.names]

    @property
    def output(self) -> Any:
        """The linear map back to the stream."""
        return getattr(self.module, self.output_name)


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(ResidualSubLayer):
    """An attention sub-layer (MHSA); its projections are of queries, keys and values.

    Attributes:
        query_norm, key_norm: of each head by itself, or, with a weight as wide as all heads, of all together.
        rope: by which of the decoder's rotations queries and keys are turned; None: not.
        gated: whether the query projection gives each head, behind its query, a gate as wide, whose sigmoid the head's
            output is multiplied by.
    """

    heads: Heads
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    rope: str | None = None
    gated: bool = False
    output_name = "o_proj"


@dataclass(frozen=True, eq=False, kw_only=True)
class FeedForward(ResidualSubLayer):
    """A feed-forward sub-layer (FFN): ``down(activation(gate) * up)``; its projections are of gate and up."""

    activation: Callable[[Tensor], Tensor]
    output_name = "down_proj"


@dataclass(frozen=True)
class Layer:
    """One decoder layer."""

    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class Rope:
    """A rotary embedding.

    Attributes:
        channels: of a head that are turned, the first ones: channel i with channel i + half of them.
        layer_type: what Hugging Face's rotary module is to be told; None: it has one rotation for all layers.
    """

    channels: int
    layer_type: str | None


@dataclass(frozen=True)
class Architecture:
    """A decoder as every path sees it.

    Attributes:
        ropes: by the name that layers ask for them by.
        norm: before the head.
        embedding_multiplier: of the embeddings that come out of Hugging Face's module.
        logits_divisor, logits_softcap: applied in this order; a softcap of None: not.
    """

    layers: tuple[Layer, ...]
    ropes: Mapping[str, Rope]
    norm: Norm
    embedding_multiplier: float = 1.0
    logits_divisor: float = 1.0
    logits_softcap: float | None = None

    def finished(self, logits: Tensor) -> Tensor:
        """Logits in float32, from what the head has made."""
        return finished(logits, self.logits_divisor, self.logits_softcap)


def finished(logits: Tensor, divisor: float, softcap: float | None) -> Tensor:
    """Logits in float32, divided, and capped by a hyperbolic tangent."""
    logits = logits.float()
    if divisor != 1.0:
        logits = logits / divisor
    return torch.tanh(logits / softcap) * softcap if softcap else logits
