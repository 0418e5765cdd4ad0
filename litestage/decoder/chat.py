"""A chat as one text, through the template that comes with a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from litestage.decoder.files import first_line
from litestage.errors import LiteStageError

_COMMAND = re.compile(r"/\w+")


def chat_text(tokenizer: Any, turns: Sequence[Mapping[str, str]], **options: Any) -> str:
    """The turns as the tokenizer's chat template writes them.

    Args:
        turns: each with ``role`` and ``content``.
        options: what the template may look at, and ``apply_chat_template``'s own.

    Raises:
        LiteStageError: a template that does not read, reaches for what a template may not, or refuses these turns or
            leaves one of them out, as some do that know no system's turn.
    """
    try:
        text = str(tokenizer.apply_chat_template(list(turns), tokenize=False, **options))
    except Exception as error:  # a template may raise anything
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
        raise LiteStageError(
            f"The tokenizer's chat template does not take turns of {roles} ({type(error).__name__}: "
            f"{first_line(error)}); correct the template, or do without it."
        ) from error
    rest = _in_one_line(text)
    for turn in sorted(turns, key=lambda turn: -len(turn["content"])):  # a short one may be part of another
        said = _in_one_line(_without_thoughts(turn))
        if said not in rest:
            raise LiteStageError(
                f"The tokenizer's chat template leaves out what a turn of {turn['role']} says ({said[:40]!r}); correct "
                "the template, or do without that turn or the template."
            )
        rest = rest.replace(said, "\n", 1)
    return text


def _in_one_line(text: str) -> str:
    """The words that a template passes on, however it trims them: it may obey a command, as ``/no_think``, instead."""
    return " ".join(word for word in text.split() if not _COMMAND.fullmatch(word))


def _without_thoughts(turn: Mapping[str, str]) -> str:
    """What a turn says; what an assistant thought before, templates may leave out."""
    return turn["content"].rpartition("</think>")[2] if turn["role"] == "assistant" else turn["content"]
