"""The text ends once the likeliest token has hardly been likelier than the second for a while."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from litestage.plan.exit.rule import ExitRule, Seen, check_count, check_number


@dataclass(frozen=True)
class Margin(ExitRule):
    """The mean of the last ``window`` margins, the likeliest token's probability less the second's, is at most
    ``threshold``.
    """

    rule: str = "margin"
    threshold: float = 0.2
    window: int = 5
    signals = ("margin",)

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, 1, "a difference of probabilities")
        check_count("window", self.window, "steps")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(threshold=threshold, window=window) for threshold in (0.1, 0.2, 0.4, 0.7) for window in (3, 5, 10)]

    def stops(self, seen: Seen) -> bool:
        last = seen.signals["margin"][-self.window :]
        return len(last) == self.window and fmean(last) <= self.threshold

    def __str__(self) -> str:
        return f"margin <= {self.threshold:g} over {self.window}"
