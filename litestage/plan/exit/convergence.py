"""The text ends once the answer it states stays the same: answer convergence (Liu and Wang, arXiv 2506.02536).

There a trial answer is asked for after every sentence, which takes a prompt and tokens of its own. Here it is what the
text itself last said, so looking costs no pass of the model, and a text that has stated nothing goes on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from litestage.plan.exit.rule import ExitRule, Seen, check_count, check_words
from litestage.plan.exit.sentence_end import SENTENCE_END


@dataclass(frozen=True)
class Convergence(ExitRule):
    """The same answer stood in the text at each of its last ``sentences`` sentence ends; the newest token goes.

    Attributes:
        words: an answer is what follows them, up to the next mark of punctuation; upper and lower case are alike in
            the words, not in the answer.
    """

    rule: str = "convergence"
    words: str = "answer is"
    sentences: int = 2

    def __post_init__(self) -> None:
        check_words(self.words)
        check_count("sentences", self.sentences, "sentences")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(sentences=sentences) for sentences in (3, 2, 1)]

    def stops(self, seen: Seen) -> bool:
        text = seen.text(seen.tokens)
        ends = [match.end() for match in SENTENCE_END.finditer(text)][-self.sentences :]
        answers = [self._stated(text[:end]) for end in ends]
        return len(answers) == self.sentences and answers[0] is not None and len(set(answers)) == 1

    def _stated(self, text: str) -> str | None:
        """The answer that the text states last."""
        stated = re.findall(rf"(?i:{re.escape(self.words)})[\s:(]*([^\s.,;:!?()][^.,;:!?()\n]*)", text)
        return stated[-1].strip() if stated else None

    def __str__(self) -> str:
        return f"{self.words!r} the same after {self.sentences} sentence{'' if self.sentences == 1 else 's'}"
