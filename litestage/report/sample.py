"""A sample of traces to browse: every question with what each method wrote beside full depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from markupsafe import escape

LONGEST_TEXT = 6_000
"""Characters of one text that are shown; a model that rambles would fill the page alone."""
LONGEST_SAMPLE = 1_500_000
"""Characters of all texts that a page shows, escaped as they are there: it stays below 3 MB."""


@dataclass(frozen=True)
class Written:
    """One row of a stage: what was written, and why it ended."""

    text: str
    note: str


@dataclass(frozen=True)
class Answered:
    """What one method made of a question. ``stages`` are (name, rows); rows are None where full depth wrote the same.

    Attributes:
        answer: the letter, or ``none``.
        right: None when the right one is not known.
        parts: whether the answer is another than full depth's.
    """

    method: str
    answer: str
    right: bool | None
    parts: bool
    stages: Sequence[tuple[str, Sequence[Written] | None]]

    @property
    def verdict(self) -> str:
        known = {True: "right", False: "wrong", None: "not checked"}
        return f"{self.answer}, {known[self.right]}"


@dataclass(frozen=True)
class Asked:
    """A question with full depth's answer and the other methods'. ``options`` are (letter, text, whether right)."""

    id: str
    text: str
    options: Sequence[tuple[str, str, bool]]
    why: str
    full: Answered
    others: Sequence[Answered]


def to_browse(traces: Sequence[Mapping[str, Any]], room: int = LONGEST_SAMPLE) -> list[Asked]:
    """The lines of traces.jsonl, as many as fit into ``room`` characters of a page."""
    asked: list[Asked] = []
    for line in traces:
        made = _asked(line)
        room -= _length(made)
        if room < 0:
            break
        asked.append(made)
    return asked


def _asked(line: Mapping[str, Any]) -> Asked:
    options = [
        (letter, text, letter == line.get("answer"))
        for letter, text in zip(ascii_uppercase, line["options"], strict=False)
    ]
    (name, full), *others = line["traces"].items()
    return Asked(
        id=str(line["id"]),
        text=str(line["text"]),
        options=options,
        why=str(line.get("why", "")),
        full=_answered(name, full, None),
        others=[_answered(method, trace, full) for method, trace in others],
    )


def _answered(method: str, trace: Mapping[str, Any], full: Mapping[str, Any] | None) -> Answered:
    stages: list[tuple[str, Sequence[Written] | None]] = []
    for index, stage in enumerate(trace["stages"]):
        same = full is not None and full["stages"][index]["texts"] == stage["texts"]
        same = same and full is not None and full["stages"][index]["stops"] == stage["stops"]
        stages.append((str(stage["name"]), None if same else _rows(stage)))
    return Answered(
        method=method,
        answer=str(trace["answer"] or "none") + " by likelihood" * bool(trace.get("chosen_by_likelihood")),
        right=trace["correct"],
        parts=full is not None and full["answer"] != trace["answer"],
        stages=stages,
    )


def _rows(stage: Mapping[str, Any]) -> list[Written]:
    return [
        Written(_shortened(str(text)), f"{tokens} tokens, {stop}".replace("_", " "))
        for text, tokens, stop in zip(stage["texts"], stage["tokens"], stage["stops"], strict=True)
    ]


def _shortened(text: str) -> str:
    left = len(text) - LONGEST_TEXT
    return text if left <= 0 else f"{text[:LONGEST_TEXT]} … ({left} more characters)"


def _length(asked: Asked) -> int:
    """Characters in the page, with what surrounds every text there."""
    stages = [rows or () for answered in (asked.full, *asked.others) for _, rows in answered.stages]
    texts = [written.text + written.note for rows in stages for written in rows]
    texts += [asked.text, *(text for _, text, _ in asked.options)]
    return sum(len(escape(text)) + 60 for text in texts) + 200 * len(stages)
