"""What stands behind results.json: ``samples.jsonl``, question by question, and ``traces.jsonl``, some whole traces."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from litestage.atomic import replacing
from litestage.comparison.results import Measured, answered_by_the_clock
from litestage.stages import Question
from litestage.trace import StageTrace, Trace

TRACED_QUESTIONS = 24
"""Of how many questions ``traces.jsonl`` keeps the texts: a page to browse, not an archive."""


def write_samples(questions: Sequence[Question], methods: Mapping[str, Measured], folder: Path) -> None:
    """Writes both files into ``folder``."""
    _write_lines(folder / "samples.jsonl", _samples(questions, methods))
    _write_lines(folder / "traces.jsonl", _traces(questions, methods))


def _samples(questions: Sequence[Question], methods: Mapping[str, Measured]) -> Iterator[dict[str, Any]]:
    """One line per method and question: answer, and by stage the new tokens of all rows and why they stopped.

    ``question`` is the question's digest: by it the gate knows that an id still stands for the same one.
    ``chosen_by_likelihood`` stands where the answer was not read but chosen.
    ``latency_s``, ``ttft_s`` and ``tpot_s`` stand where the question was also run alone, by the clock, and every method
    took it to its end.
    """
    timed = answered_by_the_clock(measured.latency for measured in methods.values())
    for name, measured in methods.items():
        clocked = {trace.question_id: _seconds(trace) for trace in measured.latency if trace.question_id in timed}
        for question, trace in zip(questions, measured.accuracy, strict=True):
            line: dict[str, Any] = {
                "method": name,
                "id": trace.question_id,
                "question": question.digest,
                "answer": trace.answer,
                "correct": bool(trace.correct),
                "tokens": {stage.name: sum(stage.tokens) for stage in trace.stages},
                "stops": {stage.name: dict(sorted(Counter(stage.stops).items())) for stage in trace.stages},
            }
            if trace.chosen_by_likelihood:
                line["chosen_by_likelihood"] = True
            line |= clocked.get(trace.question_id, {})
            yield line


def _seconds(trace: Trace) -> dict[str, float]:
    figures = {name: getattr(trace, name) for name in ("latency_s", "ttft_s", "tpot_s")}
    return {name: value for name, value in figures.items() if value is not None}


def _traces(questions: Sequence[Question], methods: Mapping[str, Measured]) -> Iterator[dict[str, Any]]:
    """One line per question: the question, why it is here, and its trace under every method.

    Half of them are those on which most methods part from full depth, the others the first of the split.
    """
    for at, why in _worth_reading(methods):
        yield {
            **asdict(questions[at]),
            "why": why,
            "traces": {name: _trace(measured.accuracy[at]) for name, measured in methods.items()},
        }


def _worth_reading(methods: Mapping[str, Measured]) -> list[tuple[int, str]]:
    """Which questions, by place, and why."""
    full = methods["full"].accuracy
    parted = [
        sum(measured.accuracy[at].answer != full[at].answer for measured in methods.values()) for at in range(len(full))
    ]
    most = sorted((at for at in range(len(full)) if parted[at]), key=lambda at: -parted[at])[: TRACED_QUESTIONS // 2]
    first = [at for at in range(len(full)) if at not in most][: TRACED_QUESTIONS - len(most)]
    return sorted([*((at, "methods differ") for at in most), *((at, "first") for at in first)])


def _trace(trace: Trace) -> dict[str, Any]:
    stages = [_stage(stage) for stage in trace.stages]
    answered = {"answer": trace.answer, "correct": trace.correct, "chosen_by_likelihood": trace.chosen_by_likelihood}
    return {**answered, "plan": trace.plan, "stages": stages}


def _stage(stage: StageTrace) -> dict[str, Any]:
    kept = {name: value for name, value in asdict(stage).items() if value is not None and name != "token_ids"}
    if stage.confidences is not None:
        kept["confidences"] = [[round(value, 4) for value in row] for row in stage.confidences]
    return kept


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
