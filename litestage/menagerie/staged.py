"""A question with the gold text of every stage, and the JSONL files such rows are kept in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestage.errors import LiteStageError
from litestage.stages import Question

_QUESTION_KEYS = ("id", "question", "options", "answer")


@dataclass(frozen=True)
class StagedRow:
    """A question and, by stage name, what that stage should write: one text, or one per option."""

    question: Question
    gold: Mapping[str, str | list[str]]


def write_staged(rows: Iterable[StagedRow], path: str | Path) -> None:
    """One JSON object a line: ``id, question, options, answer`` and one key per stage."""
    with Path(path).open("w", encoding="utf-8") as file:
        for row in rows:
            asked = row.question
            head = {"id": asked.id, "question": asked.text, "options": list(asked.options), "answer": asked.answer}
            file.write(json.dumps({**head, **row.gold}, ensure_ascii=False) + "\n")


def read_staged(path: str | Path) -> list[StagedRow]:
    """The rows of a staged JSONL file; every key besides ``id, question, options, answer`` is a stage's gold text.

    Raises:
        LiteStageError: no such file, no rows, a line that is not JSON, a missing key, a row that is no valid question,
            or a stage with neither a text nor one text per option.
    """
    path = Path(path)
    if not path.is_file():
        raise LiteStageError(f"There is no staged JSONL file {str(path)!r}; give the path of one.")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    rows = [_row(line, f"{path.name}, line {number}") for number, line in lines if line.strip()]
    if not rows:
        raise LiteStageError(f"The staged JSONL file {str(path)!r} has no rows; give it at least one.")
    return rows


def _row(line: str, where: str) -> StagedRow:
    try:
        raw: dict[str, Any] = json.loads(line)
        question = Question(str(raw["id"]), raw["question"], tuple(raw["options"]), raw["answer"])
    except LiteStageError as error:
        raise LiteStageError(f"{where}: {error}") from None
    except KeyError as error:
        raise LiteStageError(f"{where} has no {error.args[0]!r}; a row needs {', '.join(_QUESTION_KEYS)}.") from None
    except (ValueError, TypeError, AttributeError):
        raise LiteStageError(f"{where} is not a staged row: {line[:80]!r}; write one JSON object a line.") from None
    gold = {key: value for key, value in raw.items() if key not in _QUESTION_KEYS}
    for stage, text in gold.items():
        per_option = isinstance(text, list) and len(text) == len(question.options)
        texts = text if per_option else [text]
        if not all(isinstance(each, str) and each.strip() for each in texts):
            raise LiteStageError(
                f"{where}: the stage {stage!r} has {text!r:.80}; give one text, or one for each of the "
                f"{len(question.options)} options."
            )
    return StagedRow(question, gold)
