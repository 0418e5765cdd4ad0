"""A run as the gate reads it: results.json and its samples. A baseline is a results.json that carries them inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from litestage.atomic import write_text
from litestage.errors import LiteStageError
from litestage.records import RESULTS, Judged, read_answers
from litestage.records import read_record as read


@dataclass(frozen=True)
class Sample:
    """One question under one method: whether it was right, new tokens by stage, seconds where it was timed alone.

    ``question`` is the question's digest; None in files from before there was one.
    """

    correct: bool
    tokens: Mapping[str, int]
    latency_s: float | None
    question: str | None = None


@dataclass(frozen=True)
class Record:
    """A run.

    Attributes:
        path: where it was read from.
        results: results.json's content, without samples.
        samples: by method and question; empty where they are not at hand.
    """

    path: Path
    results: Mapping[str, Any]
    samples: Mapping[str, Mapping[str, Sample]]

    @property
    def methods(self) -> dict[str, Mapping[str, Any]]:
        return {method["name"]: method for method in self.results["methods"]}

    @property
    def questions(self) -> dict[str, str]:
        """By id, the questions' digests where they are known."""
        samples = (sample for by_question in self.samples.values() for sample in by_question.items())
        return {one: sample.question for one, sample in samples if sample.question is not None}

    @property
    def stages(self) -> list[str]:
        return list(self.results["methods"][0]["stages"])


def read_record(path: Path) -> Record:
    """Reads a results.json with the samples.jsonl beside it, or a baseline.

    Raises:
        LiteStageError: no such file, not JSON, not results of ``litestage compare``, or samples that do not fit.
    """
    if not path.is_file():
        raise LiteStageError(f"There is no file {str(path)!r}; give a results.json or a baseline.")
    content = read(path, {RESULTS: Judged})
    inside = content.pop("samples", None)
    lines = path.with_name("samples.jsonl")
    samples = _unpacked(inside, path) if inside else _read_lines(lines) if lines.is_file() else {}
    named = {method["name"] for method in content["methods"]}
    record = Record(path, content, {name: found for name, found in samples.items() if name in named})
    _same_questions(record)
    for name, method in record.methods.items():
        answered = samples.get(name, {}).values()
        for stage in record.stages:
            if not all(stage in sample.tokens for sample in answered):
                raise LiteStageError(f"The samples of {str(path)!r} lack the tokens of {stage!r}; run it again.")
        found = [sample.correct for sample in answered]
        if found and (len(found) != content["n"] or abs(sum(found) / len(found) - method["accuracy"]) > 1e-9):
            raise LiteStageError(
                f"The samples of {name!r} are not those of {str(path)!r}: they hold {sum(found)} right of "
                f"{len(found)}, it says {method['accuracy']:.1%} of {content['n']}; run the comparison again."
            )
    return record


def _same_questions(record: Record) -> None:
    """Raises LiteStageError unless the samples of all methods are of the same questions."""
    first = next(iter(record.samples), "")
    for name, by_question in record.samples.items():
        if parted := by_question.keys() ^ record.samples[first].keys():
            raise LiteStageError(
                f"The samples of {str(record.path)!r} have the question {min(parted)!r} under one of {first!r} and "
                f"{name!r} only; run the comparison again."
            )


def _read_lines(path: Path) -> dict[str, dict[str, Sample]]:
    samples: dict[str, dict[str, Sample]] = {}
    for line in read_answers(path):
        sample = Sample(bool(line["correct"]), line["tokens"], line.get("latency_s"), line.get("question"))
        samples.setdefault(line["method"], {})[line["id"]] = sample
    return samples


def write_baseline(record: Record, path: Path) -> None:
    """Writes a run as a baseline: one file, every column of the samples one line, so that it can be committed.

    Raises:
        LiteStageError: the file cannot be written.
    """
    content = {**record.results, **({"samples": _pack(record)} if record.samples else {})}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _pack(record: Record) -> dict[str, Any]:
    ids = list(next(iter(record.samples.values())))
    methods = {}
    for name, by_question in record.samples.items():
        rows = [by_question[one] for one in ids]
        methods[name] = {
            "correct": "".join("1" if row.correct else "0" for row in rows),
            "tokens": {stage: " ".join(str(row.tokens[stage]) for row in rows) for stage in record.stages},
            "latency_s": " ".join("-" if row.latency_s is None else f"{row.latency_s:.5g}" for row in rows),
        }
    digests = record.questions
    known = {"questions": " ".join(digests.get(one, "-") for one in ids)} if digests else {}
    in_one_line = all("\n" not in one for one in ids)
    return {"ids": "\n".join(ids) if in_one_line else ids, **known, "methods": methods}


def _unpacked(packed: Any, path: Path) -> dict[str, dict[str, Sample]]:
    try:
        return _unpack(packed)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LiteStageError(
            f"The samples of {str(path)!r} can't be read ({error}); make the baseline again."
        ) from None


def _unpack(packed: Mapping[str, Any]) -> dict[str, dict[str, Sample]]:
    ids = packed["ids"] if isinstance(packed["ids"], list) else packed["ids"].split("\n")
    known = packed["questions"].split() if "questions" in packed else ["-"] * len(ids)
    digests = [None if digest == "-" else digest for digest in known]
    samples = {}
    for name, columns in packed["methods"].items():
        tokens = {stage: [int(count) for count in column.split()] for stage, column in columns["tokens"].items()}
        seconds = [None if value == "-" else float(value) for value in columns["latency_s"].split()]
        if not all(value is None or 0 < value < inf for value in seconds):
            raise ValueError(f"a time of {name} is no number of seconds")
        rows = zip(ids, columns["correct"], zip(*tokens.values(), strict=True), seconds, digests, strict=True)
        samples[name] = {
            one: Sample(right == "1", dict(zip(tokens, counts, strict=True)), latency_s, digest)
            for one, right, counts, latency_s, digest in rows
        }
    return samples
