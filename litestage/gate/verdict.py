"""The verdict over all figures of all methods, with false alarms held down although there are many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from litestage.environment import DECIDES_TOKENS
from litestage.errors import LiteStageError
from litestage.gate.figures import Figure, GateOptions, figures
from litestage.gate.record import Record
from litestage.stats import holm


@dataclass(frozen=True)
class Verdict:
    """What the gate found.

    Attributes:
        figures: all that were compared.
        missing: what the baseline has and the new results do not.
        notes: what a reader must know of how it was compared.
    """

    figures: list[Figure]
    missing: list[str]
    notes: list[str]

    @property
    def regressions(self) -> list[Figure]:
        return [figure for figure in self.figures if figure.regression]

    @property
    def passed(self) -> bool:
        return not self.regressions and not self.missing


def judge(before: Record, after: Record, options: GateOptions) -> Verdict:
    """Compares a run with the baseline.

    Raises:
        LiteStageError: options out of range, or runs that cannot be compared.
    """
    _check(options)
    _comparable(before, after)
    notes = _notes(before, after)
    common = [name for name in before.methods if name in after.methods]
    found = [
        figure
        for name in common
        for figure in figures(name, before, after, not notes and _same_plan(name, before, after), options)
    ]
    adjusted = holm({at: figure.p_value for at, figure in enumerate(found) if figure.p_value is not None})
    judged = [
        replace(figure, p_holm=adjusted.get(at), regression=figure.broken or adjusted.get(at, 1.0) <= options.alpha)
        for at, figure in enumerate(found)
    ]
    changed = [name for name in common if not _same_plan(name, before, after)]
    if changed:
        notes.append(f"Another plan than the baseline's: {', '.join(changed)}; tokens are compared within a tolerance.")
    for record in (before, after):
        if record.samples and not record.questions:
            notes.append(
                f"{record.path} is from before questions had digests, so they are paired by id alone: another question "
                "under the same id is not seen."
            )
    asked, now = (set(record.samples.get("full", ())) for record in (before, after))
    if asked and now and asked - now:
        notes.append(
            f"{len(asked - now)} of the baseline's {len(asked)} questions were not asked now: figures are of the "
            f"{len(asked & now)} that both have."
        )
    new = [name for name in after.methods if name not in before.methods]
    if new:
        notes.append(f"New, without a baseline: {', '.join(new)}; --update takes them in.")
    return Verdict(judged, _missing(before, after), notes)


def _check(options: GateOptions) -> None:
    for name, value in (("alpha", options.alpha), ("latency_tolerance", options.latency_tolerance)):
        if not 0 <= value < 1:
            raise LiteStageError(f"{name} is {value}; give a fraction from 0 to below 1.")
    if not 0 <= options.token_tolerance < float("inf"):
        raise LiteStageError(f"token_tolerance is {options.token_tolerance}; give a fraction of 0 or more.")


def _comparable(before: Record, after: Record) -> None:
    compared: Mapping[str, tuple[Any, Any]] = {
        "task": (before.results["task"], after.results["task"]),
        "split": (before.results["split"], after.results["split"]),
        "model": (before.results["model"]["name"], after.results["model"]["name"]),
        "stages": (", ".join(before.stages), ", ".join(after.stages)),
    }
    for what, (was, now) in compared.items():
        if was != now:
            raise LiteStageError(
                f"The results can't be compared with the baseline: its {what} is {was!r}, theirs {now!r}; run the same "
                "comparison, or make a new baseline with --update."
            )
    full = before.samples.get("full", {}), after.samples.get("full", {})
    if all(full) and not set(full[0]) & set(full[1]):
        raise LiteStageError(
            f"The results can't be compared with the baseline: {str(before.path)!r} and {str(after.path)!r} have no "
            "question in common; run the same comparison, or make a new baseline with --update."
        )
    was, now = before.questions, after.questions
    common = was.keys() & now.keys()
    others = sorted(one for one in common if was[one] != now[one])
    if others:
        raise LiteStageError(
            f"The results can't be compared with the baseline: {len(others)} of {len(common)} questions have another "
            f"text, other options or another answer under the same id, {others[0]!r} for one; compare on the "
            "baseline's questions, or make a new baseline with --update."
        )


def _notes(before: Record, after: Record) -> list[str]:
    """Why tokens need not be the same; empty where they must be."""
    was, now = before.results["environment"], after.results["environment"]
    notes = [
        f"Another environment: {key} was {was.get(key)!r} and is {now.get(key)!r}."
        for key in DECIDES_TOKENS
        if was.get(key) != now.get(key)
    ]
    for what, key in (("model", "fingerprint"), ("pipeline", "hash")):
        if before.results[what].get(key) != after.results[what].get(key):
            notes.append(f"Another {what} of the same name: its {key} differs.")
    if was.get("dtype") != "float32":
        notes.append(f"In {was.get('dtype')} a batch's shape can change tokens.")
    if notes:
        notes.append("So tokens are compared within a tolerance, not exactly.")
    return notes


def _same_plan(name: str, before: Record, after: Record) -> bool:
    return bool(before.methods[name]["plan"] == after.methods[name]["plan"])


def _missing(before: Record, after: Record) -> list[str]:
    missing = []
    for name, method in before.methods.items():
        if name not in after.methods:
            missing.append(f"{name} is missing from the new results")
        elif "speedup" in method and "speedup" not in after.methods[name]:
            missing.append(f"{name} was timed in the baseline and is not now")
    return missing
