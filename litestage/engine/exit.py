"""Where an exit rule (:mod:`litestage.plan.exit`) ends a generation."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.plan.exit import EXIT_RULES, ExitRule


def stops(rule: ExitRule, confidences: Sequence[float]) -> bool:
    """Whether the generation ends at the step whose confidence is the last one given."""
    return EXIT_RULES[rule.rule](rule, confidences[-rule.window :])


def exit_step(rule: ExitRule, confidences: Sequence[float]) -> int | None:
    """Index of the first step at which ``rule`` ends a generation with these confidences, or None."""
    ends = range(1, len(confidences) + 1)
    return next((end - 1 for end in ends if stops(rule, confidences[max(0, end - rule.window) : end])), None)
