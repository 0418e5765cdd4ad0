"""Exit rules: when a stage's generation is cut short. Adding a rule is one function and one registry line.

Every rule here is *cut-only*: it looks at the last ``window`` confidences and at nothing else, so it shortens a fixed
sequence, and one uncut generation with its confidences gives the result for every threshold and window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from litestage.errors import LiteStageError, did_you_mean
from litestage.plan import ExitRule


def confidence(rule: ExitRule, confidences: Sequence[float]) -> bool:
    """LiteStage's rule: the window is full and its mean confidence is at most the threshold (arXiv 2510.14211)."""
    return len(confidences) >= rule.window and fmean(confidences) <= rule.threshold


EXIT_RULES: dict[str, Callable[[ExitRule, Sequence[float]], bool]] = {"confidence": confidence}


def check(rule: ExitRule) -> None:
    """Raises LiteStageError when there is no such rule."""
    if rule.rule not in EXIT_RULES:
        raise LiteStageError(f"exit rule is {rule.rule!r}; {did_you_mean(rule.rule, EXIT_RULES)}")


def stops(rule: ExitRule, confidences: Sequence[float]) -> bool:
    """Whether the generation ends at the step whose confidence is the last one given."""
    return EXIT_RULES[rule.rule](rule, confidences[-rule.window :])


def exit_step(rule: ExitRule, confidences: Sequence[float]) -> int | None:
    """Index of the first step at which ``rule`` ends a generation with these confidences, or None."""
    ends = range(1, len(confidences) + 1)
    return next((end - 1 for end in ends if stops(rule, confidences[max(0, end - rule.window) : end])), None)
