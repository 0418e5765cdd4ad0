"""Two failures that a mean can hide, looked for by name.

*Latency inversion*: a plan that skips sub-layers and yet is slower, mostly because the text it leads to is longer.
*Summary collapse*: the last stage no longer ends in an answer that can be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from litestage.report.runs import Run

LONGER = 1.02
"""How many times full depth's tokens count as a longer text."""
SURE = 0.01
"""At which p the last stage's parse failures count as more than full depth's (Fisher's exact test)."""


def failures(run: Run) -> list[str]:
    """A sentence for every failure found, its name first."""
    found: list[str] = []
    if run.comparison:
        full, *others = run.comparison["methods"]
        for method in others:
            found += _inverted(full, method)
            found += _collapsed(run.comparison["n"], full, method)
    if run.experiment:
        found += _predicted_slower(run.experiment)
    return found


def _inverted(full: Mapping[str, Any], method: Mapping[str, Any]) -> Iterator[str]:
    skipped = sum(sum(stage["skipped"].values()) for stage in method["stages"].values())
    if not skipped or "speedup" not in method or method["speedup"] >= 1:
        return
    low, high = method["speedup_ci95"]
    named, sure = ("Latency inversion", "is slower") if high < 1 else ("Perhaps a latency inversion", "is no faster")
    yield (
        f"{named}: {method['name']} skips {skipped:g} sub-layers over the stages and yet {sure} than "
        f"full depth ({method['speedup']:.2f} times as fast, 95 % interval {low:.2f} to {high:.2f}); "
        f"{_written(full, method)}"
    )


def _collapsed(n: int, full: Mapping[str, Any], method: Mapping[str, Any]) -> Iterator[str]:
    from scipy.stats import fisher_exact

    before, after = (m["parse_failures"] + m.get("chosen_by_likelihood", 0) for m in (full, method))
    if after <= before or fisher_exact([[after, n - after], [before, n - before]], alternative="greater")[1] > SURE:
        return
    stage, last = list(method["stages"].items())[-1]
    ends = ", ".join(f"{stop.replace('_', ' ')} {count}" for stop, count in last["stops"].items())
    yield (
        f"Summary collapse: {method['name']} leaves {after / n:.0%} of {n} questions without an answer that can be "
        f"read, full depth {before / n:.0%}; its last stage, {stage}, ended by: {ends}."
    )


def _predicted_slower(experiment: Mapping[str, Any]) -> Iterator[str]:
    rows = [row for row in experiment["rows"] if "predicted_speedup_ci95" in row]
    slower = [row for row in rows if row["predicted_speedup_ci95"][1] < 1]
    if slower:
        yield (
            f"Latency inversion: {len(slower)} of {len(rows)} plans of {experiment['experiment']} are predicted slower "
            f"than full depth."
        )


def _written(full: Mapping[str, Any], method: Mapping[str, Any]) -> str:
    """Whether longer texts can be the reason."""
    ours, theirs = _tokens(method), _tokens(full)
    if ours > LONGER * theirs:
        return f"it writes {ours:.0f} tokens a question instead of {theirs:.0f}."
    how = "hardly" if ours > theirs else "not"
    return f"its texts are {how} longer ({ours:.0f} tokens a question, full depth {theirs:.0f})."


def _tokens(method: Mapping[str, Any]) -> float:
    return sum(float(stage["tokens"]) for stage in method["stages"].values())
