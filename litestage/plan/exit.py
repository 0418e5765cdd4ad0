"""Exit rules: when a stage's generation is cut short. Adding a rule is one function and one registry line.

Every rule here is *cut-only*: it looks at the confidences so far and at nothing else, so it shortens a fixed
sequence, and one uncut generation with its confidences gives the result for every threshold and window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from litestage.errors import LiteStageError, did_you_mean


@dataclass(frozen=True)
class ExitRule:
    """When a stage's generation is cut short: the mean of the last ``window`` confidences is <= ``threshold``.

    Confidence is the largest softmax probability of a step (LiteStage, arXiv 2510.14211; the window length is not
    published, 5 is our choice).

    Raises:
        LiteStageError: a rule that is not in ``EXIT_RULES``, a threshold that is no probability, or a window that is no
            number of steps.
    """

    rule: str = "confidence"
    threshold: float = 0.5
    window: int = 5

    def __post_init__(self) -> None:
        if self.rule not in EXIT_RULES:
            raise LiteStageError(f"exit rule is {self.rule!r}; {did_you_mean(str(self.rule), EXIT_RULES)}")
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not 0 <= self.threshold <= 1:
            raise LiteStageError(f"exit threshold {self.threshold!r} is outside 0 to 1; give a probability.")
        if not isinstance(self.window, int) or isinstance(self.window, bool) or self.window < 1:
            raise LiteStageError(
                f"exit window {self.window!r} is not a number of steps; give a whole number, at least 1."
            )


def confidence(rule: ExitRule, confidences: Sequence[float]) -> bool:
    """LiteStage's rule: the window is full and its mean confidence is at most the threshold (arXiv 2510.14211)."""
    return len(confidences) >= rule.window and fmean(confidences[-rule.window :]) <= rule.threshold


EXIT_RULES: dict[str, Callable[[ExitRule, Sequence[float]], bool]] = {"confidence": confidence}


def stops(rule: ExitRule, confidences: Sequence[float]) -> bool:
    """Whether the generation ends at the step whose confidence is the last one given."""
    return EXIT_RULES[rule.rule](rule, confidences[-rule.window :])


def exit_step(rule: ExitRule, confidences: Sequence[float]) -> int | None:
    """Index of the first step at which ``rule`` ends a generation with these confidences, or None."""
    ends = range(1, len(confidences) + 1)
    return next((end - 1 for end in ends if stops(rule, confidences[max(0, end - rule.window) : end])), None)
