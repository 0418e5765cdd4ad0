"""Schedules: skip sets that change while a stage generates. Plain data, in one of two forms.

``steps``: from the given generated token on (counted from 1: the first is what the prefill predicts), its sets replace
the plan's. Sets only grow: an attention that ran again would lack the keys and values of the tokens it was skipped for.

``online``: AdaSkip's rule (arXiv 2501.02336). Over each row's first ``observe`` generated tokens, the mean cosine
before and after every feed-forward sub-layer that runs; from the next token on, those with a mean of at least
``threshold`` are skipped too, in this row, the stream scaled by the row's own mean ratio of norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from litestage.errors import LiteStageError, known_keys, one_of
from litestage.plan.skip import SkipSet

FORMS = ("steps", "online")


def checked(schedule: Any, skip: SkipSet) -> dict[str, Any]:
    """The schedule as canonical plain data.

    Raises:
        LiteStageError: not one of the two forms, a value that makes no sense, or sets that shrink.
    """
    if not isinstance(schedule, Mapping) or len(schedule) != 1:
        raise LiteStageError(
            f"schedule is {schedule!r}; it is one mapping, 'steps' or 'online', or null for a fixed skip set."
        )
    ((form, content),) = schedule.items()
    one_of("the form of schedule", form, FORMS)
    return {"steps": _steps(content, skip)} if form == "steps" else {"online": _online(content)}


def step_sets(schedule: Mapping[str, Any] | None) -> list[tuple[int, SkipSet]]:
    """The generated tokens at which the sets change, and what is skipped from each on; empty for other schedules."""
    steps = (schedule or {}).get("steps", ())
    return [(step["from"], SkipSet(step["mhsa"], step["ffn"])) for step in steps]


def _steps(content: Any, skip: SkipSet) -> list[dict[str, Any]]:
    if not isinstance(content, (list, tuple)) or not content:
        raise LiteStageError(f"schedule.steps is {content!r}; it is a list such as [{{from: 5, mhsa: [3], ffn: [3]}}].")
    steps: list[dict[str, Any]] = []
    before, first = skip, 0
    for step in content:
        known_keys("a step of the schedule", step, ("from", "mhsa", "ffn"))
        start = step.get("from")
        if type(start) is not int or start <= first:
            raise LiteStageError(
                f"A step of the schedule starts from {start!r}; give whole numbers that rise, from 1 "
                "(the first generated token)."
            )
        here = SkipSet.from_dict({kind: layers for kind, layers in step.items() if kind != "from"}, "a step")
        lost = [name for name in before.names if name not in here]
        if lost:
            raise LiteStageError(
                f"The schedule runs {lost[0][0]} {lost[0][1]} again from token {start}; sets can only grow, because an "
                "attention would lack earlier keys and values: name it in every later step."
            )
        steps.append({"from": start, **here.to_dict()})
        before, first = here, start
    return steps


def _online(content: Any) -> dict[str, Any]:
    known_keys("schedule.online", content, ("observe", "threshold"))
    observe, threshold = content.get("observe", 20), content.get("threshold")
    if type(observe) is not int or observe < 1:
        raise LiteStageError(f"schedule.online.observe is {observe!r}; give a whole number of tokens, at least 1.")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        raise LiteStageError(f"schedule.online.threshold is {threshold!r}; give a cosine, -1 to 1.")
    return {"observe": observe, "threshold": float(threshold)}
