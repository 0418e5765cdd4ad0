"""Generation settings that come with a model: what ends a text, and what ``generate`` would apply but we do not."""

from __future__ import annotations

import json
from logging import getLogger
from typing import Any

from litestage.errors import LiteStageError

CHOICES = ("ignore", "refuse")

_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "forced_decoder_ids": ([],),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_time": (),
    "stop_strings": ([], ""),
    "sequence_bias": ({}, []),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1.0,),
    "watermarking_config": ({},),
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "token_healing": (False,),
    "cache_implementation": ("dynamic", "dynamic_full", "static", "offloaded", "offloaded_static", "hybrid"),
}
"""Fields of ``generation_config`` that change what greedy ``generate`` writes, and the values (beside None) at which
they do not. Sampling's own, lengths that a stage sets, lossless drafts and what only beams read are no part of it."""


def settings_of(model: Any) -> dict[str, Any]:
    """What the model's generation configuration sets, as plain data."""
    given = model.generation_config.to_diff_dict()
    kept = {key: value for key, value in given.items() if not key.startswith("_") and key != "transformers_version"}
    return json.loads(json.dumps(kept, sort_keys=True, default=str))  # type: ignore[no-any-return]


def left_out(generation_config: Any) -> dict[str, Any]:
    """The fields, with their values, that greedy ``generate`` would follow and the engine does not. EOS ids it does."""
    values = {name: getattr(generation_config, name, None) for name in _WITHOUT_EFFECT}
    return {name: value for name, value in values.items() if not without_effect(name, value)}


def without_effect(name: str, value: Any) -> bool:
    """Whether it is a field that changes what greedy ``generate`` writes, at a value where it does not."""
    return name in _WITHOUT_EFFECT and (value is None or any(value == neutral for neutral in _WITHOUT_EFFECT[name]))


def say_left_out(fields: dict[str, Any], name: str, choice: str) -> None:
    """Warns of the fields that are left out. Raises LiteStageError for them where the choice is ``refuse``."""
    if not fields:
        return
    said = ", ".join(f"{field}={_brief(value)}" for field, value in fields.items())
    if choice == "refuse":
        raise LiteStageError(
            f"generation_config.json of {name!r} asks for {said}, which litestage does not apply; remove it there, or "
            "give generation_config=ignore to decode without."
        )
    getLogger(__name__).warning(
        "generation_config.json of %s asks for %s, which is left out: decoding is plainly greedy "
        "(generation_config=refuse makes this an error)",
        name,
        said,
    )


def _brief(value: Any) -> str:
    said = str(value)
    return said if len(said) <= 40 else f"{said[:40]}..."


def eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Token ids that end a generation, as ``generate`` would use them; the first one stands for an exit.

    Raises:
        LiteStageError: none is named, or what is named is no token of the model's.
    """
    embeddings = len(model.get_input_embeddings().weight)
    for source in (model.generation_config.eos_token_id, tokenizer.eos_token_id, model.config.eos_token_id):
        ids = tuple(source) if isinstance(source, (list, tuple)) else (source,) if source is not None else ()
        if not all(type(token) is int and token >= 0 for token in ids) or min(ids, default=0) >= embeddings:
            raise LiteStageError(
                f"eos_token_id is {source!r}; give the id of one of the model's {embeddings} tokens, or a list."
            )
        if ids:
            return ids
    raise LiteStageError(
        "Neither the model nor its tokenizer names an end-of-sequence token; "
        "set eos_token_id in generation_config.json."
    )
