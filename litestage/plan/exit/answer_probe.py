"""The text ends once the model is sure of the answer that it would give now: it is asked at the end of every sentence.

An answer on trial, as in DEER (c9dd19f) and Dynasor (arXiv 2412.20993): words that call for the answer are run behind
the text, and forgotten. Each trial is a pass of the model, in the clock like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

from litestage.plan.exit.rule import TRIAL, ExitRule, Seen, check_number, check_words


@dataclass(frozen=True)
class AnswerProbe(ExitRule):
    """Behind the last sentence and then ``words``, the likeliest token's probability is ``threshold`` or more.

    The newest token, the first of another sentence, goes.
    """

    rule: str = "answer_probe"
    words: str = " So the answer is option"
    threshold: float = 0.95

    def __post_init__(self) -> None:
        check_words(self.words)
        check_number("threshold", self.threshold, 0, 1, "a probability")

    @property
    def signals(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"{TRIAL}{self.words}",)

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(threshold=threshold) for threshold in (0.99, 0.95, 0.9, 0.8)]

    def stops(self, seen: Seen) -> bool:
        (name,) = self.signals
        sure = seen.signals[name][-1]
        return sure > 0 and sure >= self.threshold

    def __str__(self) -> str:
        return f"sure by {self.threshold:g} after {self.words.strip()!r}"
