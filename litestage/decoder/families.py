"""What differs between model families: which norms surround a sub-layer. Adding a family is one entry here.

Facts read in transformers 5.23: ``post_attention_layernorm`` is the FFN's pre-norm in Llama-like models and the
attention's post-norm in Gemma-2 and OLMo-2; OLMo-2 has no pre-norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestage.errors import LiteStageError


@dataclass(frozen=True)
class Family:
    """Names of the norms in one decoder layer: before and after each sub-layer, None where there is none."""

    mhsa_norm: str | None = "input_layernorm"
    mhsa_post_norm: str | None = None
    ffn_norm: str | None = "post_attention_layernorm"
    ffn_post_norm: str | None = None


_LLAMA_LIKE = Family()

FAMILIES: dict[str, Family] = {
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE,
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE,
    "phi3": _LLAMA_LIKE,
    "smollm3": _LLAMA_LIKE,
    "gemma2": Family(
        "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
    ),
    "olmo2": Family(None, "post_attention_layernorm", None, "post_feedforward_layernorm"),
}


def family_of(config: Any) -> Family:
    """The family of a transformers config. Raises LiteStageError for one that is not supported."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise LiteStageError(
            f"Model family {config.model_type!r} is not supported; supported are {', '.join(sorted(FAMILIES))}."
        )
    if rope_type(config) == "dynamic":
        raise LiteStageError(
            "rope_type 'dynamic' changes earlier positions as the text grows and is not supported; "
            "use linear, yarn, llama3 or longrope scaling."
        )
    return family


def rope_type(config: Any) -> str:
    return str((getattr(config, "rope_parameters", None) or {}).get("rope_type", "default"))


def sliding_window(config: Any, layer: int) -> int | None:
    """How many positions back layer ``layer`` attends (itself included), or None for all.

    Models with ``layer_types`` mix full and sliding layers; Mistral and Phi-3 slide in every layer or in none.
    """
    window = getattr(config, "sliding_window", None)
    if window is None or config.model_type in ("llama", "olmo2"):
        return None
    if config.model_type in ("mistral", "phi3"):
        return int(window)
    return int(window) if config.layer_types[layer] == "sliding_attention" else None


def longrope_limit(config: Any) -> int | None:
    """Longest sequence that uses longrope's short rotary factors, None where there is no such switch."""
    if rope_type(config) != "longrope":
        return None
    return int(config.rope_parameters["original_max_position_embeddings"])


def rerun_length(config: Any) -> int | None:
    """Length at which ``generate`` drops a longrope row's cache and runs its text anew with the long factors.

    Phi-3 only. In other families new tokens take the long factors, and keys made with the short ones stay as they are.
    """
    limit = longrope_limit(config)
    return limit + 1 if limit is not None and config.model_type == "phi3" else None
