"""LiteStage's rule: the text ends once the model has been unsure for a while (arXiv 2510.14211)."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from litestage.plan.exit.rule import ExitRule, Seen, check_count, check_number


@dataclass(frozen=True)
class Confidence(ExitRule):
    """The mean of the last ``window`` confidences is at most ``threshold``.

    Confidence is the largest softmax probability of a step. The window length is not published, 5 is our choice.
    """

    rule: str = "confidence"
    threshold: float = 0.5
    window: int = 5

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, 1, "a probability")
        check_count("window", self.window, "steps")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [
            cls(threshold=threshold, window=window) for threshold in (0.3, 0.5, 0.7, 0.9) for window in (3, 5, 10, 20)
        ]

    def stops(self, seen: Seen) -> bool:
        last = seen.confidences[-self.window :]
        return len(last) == self.window and fmean(last) <= self.threshold

    def __str__(self) -> str:
        return f"confidence <= {self.threshold:g} over {self.window}"
