"""The identity of a result: everything that an engine's tokens depend on, besides the plan and what it is asked.

One place for all that is found again: generations, measurements, and what a killed run had finished.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from litestage.environment import DECIDES_TOKENS, environment

VERSION = 3
"""Of what is written down and of how it is found."""
LONGROPE_VERSION = 4
"""The same of a model with longrope."""


def identity(engine: Any, fingerprint: str, tokenizer: str) -> dict[str, Any]:
    """What decides tokens, as plain data; two engines with equal identities write the same.

    Args:
        engine: a :class:`litestage.engine.Engine`.
        fingerprint: the weights', as :func:`litestage.decoder.load.fingerprint` gives it.
        tokenizer: its digest, as :func:`tokenizer_digest` gives it.
    """
    ran = environment(engine)
    if ran["device"] != "cpu":
        del ran["threads"]  # of the host; they change no digit there
    return {
        "version": VERSION if engine.decoder.longrope_limit is None else LONGROPE_VERSION,
        "weights": fingerprint,
        "tokenizer": tokenizer,
        "eos": list(engine.eos),
        "generation": engine.generation_settings,
        "kernels": engine.kernels,
        **{name: ran[name] for name in DECIDES_TOKENS if name in ran},
    }


def tokenizer_digest(tokenizer: Any) -> str:
    """16 hex digits that change with what the tokenizer does: its rules, its special tokens and its chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = backend.to_str()
        rules = rules[max(0, rules.find('"added_tokens"')) :]  # before them: how the last call truncated and padded
    else:
        rules = json.dumps(tokenizer.get_vocab(), sort_keys=True) if hasattr(tokenizer, "get_vocab") else ""
    settings = {name: getattr(tokenizer, name, None) for name in _SETTINGS}
    digest = hashlib.sha256(rules.encode())
    digest.update(json.dumps([type(tokenizer).__qualname__, settings], sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


_SETTINGS = (
    "special_tokens_map",
    "all_special_ids",
    "chat_template",
    "clean_up_tokenization_spaces",
    "split_special_tokens",
    "add_bos_token",
    "add_eos_token",
)
