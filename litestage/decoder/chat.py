"""A chat as one text, through the template that comes with a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from litestage.decoder.files import first_line
from litestage.errors import LiteStageError


def chat_text(tokenizer: Any, turns: Sequence[Mapping[str, str]], **options: Any) -> str:
    """The turns as the tokenizer's chat template writes them.

    Args:
        turns: each with ``role`` and ``content``.
        options: what the template may look at, and ``apply_chat_template``'s own.

    Raises:
        LiteStageError: a template that does not read, reaches for what a template may not, or refuses these turns, as
            some do that know no system's turn.
    """
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, **options))
    except Exception as error:  # a template may raise anything
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
        raise LiteStageError(
            f"The tokenizer's chat template does not take turns of {roles} ({type(error).__name__}: "
            f"{first_line(error)}); correct the template, or do without it."
        ) from error
