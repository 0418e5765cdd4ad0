"""The text ends once the model is much less sure than it was at the text's own beginning.

A threshold that adapts to the question: what is unsure for one stage or task is usual for another. Ours; a control for
the paper's question whether a fixed 0.5 is best (arXiv 2510.14211, discussion).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from litestage.plan.exit.rule import ExitRule, Seen, check_count, check_number


@dataclass(frozen=True)
class RelativeDrop(ExitRule):
    """The mean of the last ``window`` confidences is at most ``ratio`` times the mean of the first ``window``.

    It needs twice the window: the first and the last do not overlap.
    """

    rule: str = "relative_drop"
    ratio: float = 0.6
    window: int = 5

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, 0, 1, "a share of the beginning's confidence")
        check_count("window", self.window, "steps")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(ratio=ratio, window=window) for ratio in (0.5, 0.7, 0.85) for window in (3, 5, 10)]

    def stops(self, seen: Seen) -> bool:
        if len(seen.confidences) < 2 * self.window:
            return False
        return fmean(seen.confidences[-self.window :]) <= self.ratio * fmean(seen.confidences[: self.window])

    def __str__(self) -> str:
        return f"confidence <= {self.ratio:g} of the first {self.window} steps' over {self.window}"
