"""The language that prompts are written in: Jinja2, shut in, and strict where it would write what is no prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jinja2
import jinja2.runtime
import jinja2.sandbox

from litestage.stages.question import Option


class Written(str):
    """One text that a stage wrote, for later stages' templates: whole. Where a list is meant it would go in letters."""

    def __iter__(self) -> Iterator[str]:
        raise TypeError("one text stands where a list is meant; ask whether it is string")

    def __getitem__(self, at: Any) -> str:
        if isinstance(at, slice):
            return super().__getitem__(at)
        raise TypeError("one text has no items")


def as_sentence(text: str) -> str:
    """``text`` closed with a full stop unless it ends in one or in a quotation mark (TinyThinker ``trainer.py``)."""
    text = text.strip()
    return text if text.endswith((".", '"', "'")) else text + "."


class _Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """What templates read most is plainly safe: to look into it takes half of a prompt's time."""
        if isinstance(obj, (Option, jinja2.runtime.LoopContext)):
            return not attr.startswith("_")
        return super().is_safe_attribute(obj, attr, value)


def _only_text(value: Any) -> Any:
    """What a template writes, if it is a text or a number: Python's own form of anything else is nobody's prompt."""
    if isinstance(value, str | int | float | jinja2.Undefined):
        return value
    raise TypeError(f"it writes {value!r:.80}, which is no text; write option.text, or join a list")


JINJA = _Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, finalize=_only_text)
JINJA.filters["sentence"] = as_sentence
