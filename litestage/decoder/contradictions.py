"""What a configuration says that no model of its family can do, or that transformers itself does in two ways."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def layer_types(config: Any) -> list[str]:
    """The kinds of its layers; none where they are all alike."""
    return list(getattr(config, "layer_types", None) or [])


def rope_types(config: Any) -> set[str]:
    """The kinds of rotary embedding: one, or those of the layer types."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [part for part in parameters.values() if isinstance(part, dict)]
    return {str(part.get("rope_type", "default")) for part in nested or [parameters]}


def contradictions(config: Any, window: str, divisors: Iterable[str | None]) -> list[str]:
    """Fields whose values leave nothing to compute, with their values.

    Args:
        window: which layers have the configuration's ``sliding_window``: ``none``, ``all`` or ``by layer type``.
        divisors: fields that something is divided by, None for one that the family does not have.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    queries, keys = config.num_attention_heads, config.num_key_value_heads
    found = [f"{queries} query heads to {keys} key-value heads"] if keys < 1 or queries % keys else []
    if config.num_hidden_layers == 0:
        found.append("no layers")
    if config.max_position_embeddings < 1:
        found.append(f"max_position_embeddings={config.max_position_embeddings}")
    wide = getattr(config, "sliding_window", None)
    by_type = window == "by layer type" and "sliding_attention" in layer_types(config)
    slides = by_type or (window == "all" and wide is not None)
    if slides and (wide is None or wide < 2):  # with 1, transformers' cache keeps all that its attention hides
        found.append(f"layers with sliding_window={wide}")
    if slides and not by_type and len(set(layer_types(config))) > 1:
        found.append(f"layer_types of {len(set(layer_types(config)))} kinds where all layers have one window")
    found += [f"rope_type={rope!r}" for rope in rope_types(config) if rope not in ("default", *ROPE_INIT_FUNCTIONS)]
    return found + [f"{name}=0" for name in divisors if name and getattr(config, name) == 0]


def forgetting(config: Any, window: str) -> list[str]:
    """Fields by which transformers' cache lets go of keys that the family's attention still looks at."""
    kinds = layer_types(config)
    if kinds and "sliding_attention" not in kinds:
        return []
    names = ("sliding_window", "attention_chunk_size") if window == "none" else ("attention_chunk_size",)
    values = {name: getattr(config, name, None) for name in names}
    reach = config.max_position_embeddings
    return [
        f"{name}={value!r}"
        for name, value in values.items()
        if value is not None and not (isinstance(value, int) and value >= reach)
    ]
