"""The text ends with its n-th sentence: the trivial control that every cleverer rule has to beat."""

from __future__ import annotations

import re
from dataclasses import dataclass

from litestage.plan.exit.rule import ExitRule, Seen, check_count

SENTENCE_END = re.compile(r"[.!?][\"')\]]*(?=\s)")
"""Seen once a space follows: ``3.`` may still become 3.5."""
SENTENCE_OVER = re.compile(r"[.!?][\"')\]]*$")
"""Seen at once, ``3.`` too: for what costs little where it is wrong."""


@dataclass(frozen=True)
class SentenceEnd(ExitRule):
    """The text holds ``sentences`` whole ones: the newest token begins the next one, and goes."""

    rule: str = "sentence_end"
    sentences: int = 1

    def __post_init__(self) -> None:
        check_count("sentences", self.sentences, "sentences")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(sentences=sentences) for sentences in (3, 2, 1)]

    def stops(self, seen: Seen) -> bool:
        return len(SENTENCE_END.findall(seen.text(seen.tokens))) >= self.sentences

    def __str__(self) -> str:
        return f"after {self.sentences} sentence{'' if self.sentences == 1 else 's'}"
