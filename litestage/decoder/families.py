"""Model families: what differs between them, an entry for each, and the record of a model that is made from its entry.

Adding a family is one entry here and one tiny configuration in ``tests/tiny.py``. Facts read in transformers 5.23:
``post_attention_layernorm`` is the FFN's pre-norm in Llama-like models and the attention's post-norm in Gemma and
OLMo-2; OLMo-2 has no pre-norms; Gemma-3 has a softcap for scores in its configuration and does not apply it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.nn import functional as F

from litestage.decoder.contradictions import contradictions, forgetting, layer_types, rope_types
from litestage.decoder.layers import Architecture, Attention, FeedForward, Heads, Layer, Norm, Rope, gelu_tanh
from litestage.errors import LiteStageError

_LAYER_TYPES = ("full_attention", "sliding_attention")
_ACTIVATIONS = {"SiLU": F.silu, "SiLUActivation": F.silu, "GELUTanh": gelu_tanh}


@dataclass(frozen=True)
class Family:
    """What differs. Norms, projections and epsilons are attributes of modules; multipliers and softcaps are fields of
    the configuration, None where the family has none.

    Attributes:
        mhsa_norm, mhsa_post_norm, ffn_norm, ffn_post_norm: before and after each sub-layer.
        centred_norms: whether norms' weights are stored less one.
        query_key_norms: whether queries and keys are normalised, by ``q_norm`` and ``k_norm``.
        output_gate: see :class:`~litestage.decoder.layers.Attention`.
        window: which layers have the configuration's ``sliding_window``, where it has one.
        rope_switch: the attention's own word on whether it is turned; None: always.
        rope_by_layer_type: whether each of the configuration's ``layer_types`` has its rotation.
        partial_rope: whether the attention may turn the first of a head's channels only.
        reruns: whether ``generate`` runs a text anew when longrope's factors change.
    """

    mhsa_norm: str | None = "input_layernorm"
    mhsa_post_norm: str | None = None
    ffn_norm: str | None = "post_attention_layernorm"
    ffn_post_norm: str | None = None
    epsilon: str = "variance_epsilon"
    centred_norms: bool = False
    query_key_norms: bool = False
    output_gate: bool = False
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    activation: str = "act_fn"
    window: Literal["none", "all", "by layer type"] = "none"
    rope_switch: str | None = None
    rope_by_layer_type: bool = False
    partial_rope: bool = False
    reruns: bool = False
    score_softcap: str | None = None
    logits_softcap: str | None = None
    logits_divisor: str | None = None
    embedding_multiplier: str | None = None
    residual_multiplier: str | None = None


_LLAMA = Family()
_GEMMA = Family(
    mhsa_post_norm="post_attention_layernorm",
    ffn_norm="pre_feedforward_layernorm",
    ffn_post_norm="post_feedforward_layernorm",
    epsilon="eps",
    centred_norms=True,
    window="by layer type",
    logits_softcap="final_logit_softcapping",
)

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA,
    "mistral": replace(_LLAMA, window="all"),
    "qwen2": replace(_LLAMA, window="by layer type"),
    "qwen3": replace(_LLAMA, window="by layer type", query_key_norms=True),
    "qwen3_5_text": Family(
        epsilon="eps", centred_norms=True, query_key_norms=True, output_gate=True, partial_rope=True
    ),
    "phi3": Family(
        projections=("qkv_proj",),
        gate_up=("gate_up_proj",),
        activation="activation_fn",
        window="all",
        partial_rope=True,
        reruns=True,
    ),
    "smollm3": replace(_LLAMA, window="by layer type", rope_switch="use_rope"),
    "granite": Family(
        logits_divisor="logits_scaling",
        embedding_multiplier="embedding_multiplier",
        residual_multiplier="residual_multiplier",
    ),
    "gemma2": replace(_GEMMA, score_softcap="attn_logit_softcapping"),
    "gemma3_text": replace(_GEMMA, query_key_norms=True, rope_by_layer_type=True),
    "olmo2": Family(None, "post_attention_layernorm", None, "post_feedforward_layernorm", query_key_norms=True),
}


def family_of(config: Any) -> Family:
    """The family of a transformers config. Raises LiteStageError for what is not supported."""
    kind = config.model_type
    family = FAMILIES.get(kind)
    if family is None:
        text = f"{kind}_text"
        what = f"; of this one, the text model alone is ({text!r})" if text in FAMILIES else ""
        raise LiteStageError(
            f"Model family {kind!r} is not supported{what}; supported are {', '.join(sorted(FAMILIES))}."
        )
    strange = {kind: layer for layer, kind in enumerate(layer_types(config)) if kind not in _LAYER_TYPES}
    if strange:
        raise LiteStageError(
            f"This {kind!r} model has layers of the kinds {', '.join(sorted(strange))}; only attention over the text "
            f"itself is supported ({', '.join(_LAYER_TYPES)})."
        )
    if getattr(config, "use_bidirectional_attention", None) or not getattr(config, "is_causal", True):
        raise LiteStageError(
            f"This {kind!r} model attends to what follows (use_bidirectional_attention, is_causal: false): no decoder."
        )
    if impossible := contradictions(
        config, family.window, (family.score_softcap, family.logits_softcap, family.logits_divisor)
    ):
        raise LiteStageError(
            f"This {kind!r} model has {' and '.join(impossible)}, with which it cannot be computed; correct its "
            "config.json."
        )
    if forgets := forgetting(config, family.window):
        raise LiteStageError(
            f"This {kind!r} model has {' and '.join(forgets)} in its configuration, by which transformers drops "
            "keys from its cache and not from its attention; remove it there."
        )
    ropes = rope_types(config)
    if "dynamic" in ropes:
        raise LiteStageError(
            "rope_type 'dynamic' changes earlier positions as the text grows and is not supported; "
            "use linear, yarn, llama3 or longrope scaling."
        )
    if family.rope_by_layer_type and "longrope" in ropes:
        raise LiteStageError(f"rope_type 'longrope' is not supported in {kind!r}, whose layers turn in different ways.")
    return family


def longrope_limit(config: Any) -> int | None:
    """Longest sequence that uses longrope's short rotary factors, None where there is no such switch."""
    if "longrope" not in rope_types(config):
        return None
    return int(config.rope_parameters["original_max_position_embeddings"])


def rerun_length(config: Any) -> int | None:
    """Length at which ``generate`` drops a longrope row's cache and runs its text anew with the long factors.

    Phi-3 only. In other families new tokens take the long factors, and keys made with the short ones stay as they are.
    """
    limit = longrope_limit(config)
    return limit + 1 if limit is not None and family_of(config).reruns else None


def architecture(model: Any) -> Architecture:
    """The record of a Hugging Face causal LM. Raises LiteStageError for what is not supported."""
    config, family = model.config, family_of(model.config)
    body = model.model

    def norm(module: Any) -> Norm:
        epsilon = float(getattr(module, family.epsilon))
        if epsilon < 0:
            raise LiteStageError(
                f"The norms of the model have an epsilon of {epsilon:g}; correct it in its config.json."
            )
        return Norm(module, epsilon, family.centred_norms)

    def norm_of(layer: Any, name: str | None) -> Norm | None:
        return None if name is None else norm(getattr(layer, name))

    def said(field: str | None, otherwise: float | None = None) -> Any:
        return otherwise if field is None else getattr(config, field)

    def attention(index: int, layer: Any) -> Attention:
        module = layer.self_attn
        turned = family.rope_switch is None or bool(getattr(module, family.rope_switch))
        return Attention(
            module=module,
            norm=norm_of(layer, family.mhsa_norm),
            post_norm=norm_of(layer, family.mhsa_post_norm),
            names=family.projections,
            heads=Heads(
                layer=index,
                queries=config.num_attention_heads,
                keys=config.num_key_value_heads,
                width=module.head_dim,
                scale=float(module.scaling),
                window=_window(config, family, index),
                softcap=said(family.score_softcap),
            ),
            query_norm=norm(module.q_norm) if family.query_key_norms else None,
            key_norm=norm(module.k_norm) if family.query_key_norms else None,
            rope=(layer_types(config)[index] if family.rope_by_layer_type else "all layers") if turned else None,
            gated=family.output_gate,
            multiplier=float(said(family.residual_multiplier, 1.0)),
        )

    def feed_forward(layer: Any) -> FeedForward:
        activation = getattr(layer.mlp, family.activation)
        return FeedForward(
            module=layer.mlp,
            norm=norm_of(layer, family.ffn_norm),
            post_norm=norm_of(layer, family.ffn_post_norm),
            names=family.gate_up,
            activation=_ACTIVATIONS.get(type(activation).__name__, activation),
            multiplier=float(said(family.residual_multiplier, 1.0)),
        )

    layers = tuple(Layer(attention(index, layer), feed_forward(layer)) for index, layer in enumerate(body.layers))
    names = {layer.attention.rope for layer in layers} - {None}
    ropes = {name: _rope(body, name if family.rope_by_layer_type else None) for name in sorted(map(str, names))}
    for channels in {rope.channels for rope in ropes.values()} - {width := layers[0].attention.heads.width}:
        if channels > width or not family.partial_rope:
            raise LiteStageError(
                f"The model turns {channels} channels of heads that are {width} wide; correct partial_rotary_factor in "
                "its config.json."
            )
    return Architecture(
        layers=layers,
        ropes=ropes,
        norm=norm(body.norm),
        embedding_multiplier=float(said(family.embedding_multiplier, 1.0)),
        logits_divisor=float(said(family.logits_divisor, 1.0)),
        logits_softcap=said(family.logits_softcap),
    )


def rotations(
    body: Any, rope: Rope, stream: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of positions [rows, tokens], as Hugging Face's module makes them: [rows, tokens, channels]."""
    layer_type = () if rope.layer_type is None else (rope.layer_type,)
    cosines, sines = body.rotary_emb(stream, positions, *layer_type)
    return cosines, sines


def _rope(body: Any, layer_type: str | None) -> Rope:
    device = body.embed_tokens.weight.device
    one = torch.zeros(1, 1, dtype=torch.long, device=device)
    cosines, _ = rotations(body, Rope(0, layer_type), torch.zeros(1, device=device), one)
    return Rope(cosines.shape[-1], layer_type)


def _window(config: Any, family: Family, layer: int) -> int | None:
    if family.window == "none" or config.sliding_window is None:
        return None
    slides = family.window == "all" or layer_types(config)[layer] == "sliding_attention"
    return int(config.sliding_window) if slides else None
