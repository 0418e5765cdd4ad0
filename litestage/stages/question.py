"""A multiple-choice question, the unit everything is measured on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from string import ascii_uppercase

from litestage.errors import LiteStageError
from litestage.reading import is_text


@dataclass(frozen=True)
class Option:
    """One answer option: its letter and its text."""

    label: str
    text: str


@dataclass(frozen=True)
class Question:
    """A question with lettered options.

    Attributes:
        id: unique within its task.
        text: the question itself.
        options: the options' texts, in order; option ``i`` carries the letter ``"ABC..."[i]``.
        answer: the letter of the right option, or None when it is not known.

    Raises:
        LiteStageError: what is no text, an empty question, no options, an empty option, more than 26 of them, a text
            that no file can hold, or an answer that is not among the letters.
    """

    id: str
    text: str
    options: tuple[str, ...]
    answer: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.options, tuple):
            raise LiteStageError(f"Question {self.id!r} has the options {self.options!r:.80}; give a list of texts.")
        for text in (self.id, self.text, *self.options):
            if not isinstance(text, str):
                raise LiteStageError(f"Question {self.id!r} has {text!r:.80} where a text is due; write it as one.")
        if not all(map(is_text, (self.id, self.text, *self.options))):
            raise LiteStageError(f"Question {self.id!r} holds half a surrogate pair, which is no character; mend it.")
        if not self.text.strip():
            raise LiteStageError(f"Question {self.id!r} is empty; give it a text.")
        if not self.options:
            raise LiteStageError(f"Question {self.id!r} has no options; give it at least one.")
        if len(self.options) > len(ascii_uppercase):
            raise LiteStageError(f"Question {self.id!r} has {len(self.options)} options; at most 26 can be lettered.")
        if not all(option.strip() for option in self.options):
            raise LiteStageError(f"Question {self.id!r} has an empty option among {list(self.options)}; fill it in.")
        if self.answer is not None and self.answer not in self.labels:
            raise LiteStageError(
                f"Question {self.id!r} has the answer {self.answer!r}, which is not one of its options "
                f"{', '.join(self.labels)}; correct the row."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(ascii_uppercase[: len(self.options)])

    @property
    def digest(self) -> str:
        """16 hex digits that change with the text, an option or the answer, whatever the id."""
        content = json.dumps([self.text, self.options, self.answer])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def lettered(self) -> tuple[Option, ...]:
        return tuple(Option(label, text) for label, text in zip(self.labels, self.options, strict=True))
