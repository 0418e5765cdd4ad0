"""A verdict in words: one line per figure, sentences for what is wrong, and Markdown for GitHub's step summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from litestage.gate.figures import Figure
from litestage.gate.verdict import Verdict

COLUMNS = ("figure", "baseline", "now", "change", "verdict", "compared")


def rows(verdict: Verdict) -> list[list[str]]:
    """One row per figure that is compared, under :data:`COLUMNS`."""
    return [
        [
            f"{figure.method}: {figure.name}",
            _value(figure, figure.before),
            _value(figure, figure.after),
            change(figure),
            _word(figure),
            figure.how,
        ]
        for figure in verdict.figures
    ]


def sentences(verdict: Verdict) -> list[str]:
    """What is wrong, a sentence each; then what a reader must know; the result last."""
    said = [*map(_regression, verdict.regressions), *(f"{missing}." for missing in verdict.missing)]
    compared = f"{len(verdict.figures)} figures compared"
    wrong = [f"{len(verdict.regressions)} of {compared}"] if verdict.regressions else []
    wrong += [f"{len(verdict.missing)} missing"] if verdict.missing else []
    result = f"Failed: {', '.join(wrong)}." if wrong else f"Passed: {compared}, none worse by more than noise."
    return [*said, *verdict.notes, result]


def as_markdown(verdict: Verdict, baseline: str) -> str:
    """For a step summary of GitHub Actions."""
    lines = [f"### litestage gate: {'passed' if verdict.passed else 'failed'}", "", f"Against `{baseline}`.", ""]
    lines += [f"- {_escaped(sentence)}" for sentence in sentences(verdict)]
    lines += ["", _line(COLUMNS), _line(["---"] * len(COLUMNS)), *map(_line, rows(verdict)), ""]
    return "\n".join(lines) + "\n"


def as_data(verdict: Verdict) -> dict[str, Any]:
    """For scripts."""
    return {
        "passed": verdict.passed,
        "figures": [asdict(figure) for figure in verdict.figures],
        "missing": verdict.missing,
        "notes": verdict.notes,
    }


def change(figure: Figure) -> str:
    """By how much: points of accuracy, or per cent of the baseline's figure."""
    if figure.name == "accuracy":
        return f"{(figure.after - figure.before) * 100:+.1f} points"
    return f"{figure.after / figure.before - 1:+.1%}" if figure.before else f"{figure.after:+.1f}"


def _regression(figure: Figure) -> str:
    moved = "rose" if figure.after > figure.before else "fell" if figure.after < figure.before else "stayed the same"
    noise = (
        "which no noise explains"
        if figure.p_holm is None
        else f"more than noise (p = {figure.p_holm:.1g}, adjusted for all figures compared)"
    )
    return (
        f"{figure.method}: {figure.name} {moved} from {_value(figure, figure.before)} to "
        f"{_value(figure, figure.after)} ({change(figure)}), {noise}; {figure.how}."
    )


def _word(figure: Figure) -> str:
    if figure.regression:
        return "REGRESSION"
    if figure.worse:
        return "within noise" if figure.p_holm is not None else "within tolerance"
    return "same" if figure.before == figure.after else "better"


def _value(figure: Figure, value: float) -> str:
    if figure.name == "accuracy":
        return f"{value:.1%}"
    return f"{value:.2f}x" if figure.name == "speed-up" else f"{value:.1f}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_escaped, cells)) + " |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
