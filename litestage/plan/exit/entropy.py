"""The text ends once the next token has been wide open for a while: the entropy of the whole distribution.

The confidence rule sees the likeliest token alone; entropy sees whether the rest is one rival or a thousand (compare
Think Just Enough, arXiv 2510.08146, and LEASH, arXiv 2511.04654, which stop on low entropy instead).
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from litestage.plan.exit.rule import ExitRule, Seen, check_count, check_number


@dataclass(frozen=True)
class Entropy(ExitRule):
    """The mean of the last ``window`` steps' entropy, in nats, is at least ``threshold``."""

    rule: str = "entropy"
    threshold: float = 2.0
    window: int = 5
    signals = ("entropy",)

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, 0, float("inf"), "an entropy in nats")
        check_count("window", self.window, "steps")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(threshold=threshold, window=window) for threshold in (3.0, 2.0, 1.0, 0.5) for window in (3, 5, 10)]

    def stops(self, seen: Seen) -> bool:
        last = seen.signals["entropy"][-self.window :]
        return len(last) == self.window and fmean(last) >= self.threshold

    def __str__(self) -> str:
        return f"entropy >= {self.threshold:g} over {self.window}"
