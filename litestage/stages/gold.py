"""A question with the gold text of every stage, and the JSONL files such rows are kept in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from litestage.atomic import replacing
from litestage.errors import LiteStageError, did_you_mean
from litestage.reading import parse_json, read_lines
from litestage.stages.question import Question

_QUESTION_KEYS = ("id", "question", "options", "answer")
_SEEN = "seen"


@dataclass(frozen=True)
class StagedRow:
    """A question and what its stages should write.

    Attributes:
        gold: by stage name, one text, or one per option.
        seen: by stage name, what a later stage may find in its prompt instead of the gold, as a model would have
            written it; each shaped like the gold. Never a target.
    """

    question: Question
    gold: Mapping[str, str | list[str]]
    seen: Mapping[str, list[str | list[str]]] = field(default_factory=dict)


def write_staged(rows: Iterable[StagedRow], path: str | Path) -> None:
    """One JSON object a line: ``id, question, options, answer``, one key per stage and, if there is any, ``seen``."""
    with replacing(Path(path)) as beside, beside.open("w", encoding="utf-8") as file:
        for row in rows:
            asked = row.question
            head = {"id": asked.id, "question": asked.text, "options": list(asked.options), "answer": asked.answer}
            file.write(
                json.dumps({**head, **row.gold, **({_SEEN: row.seen} if row.seen else {})}, ensure_ascii=False) + "\n"
            )


def read_staged(path: str | Path) -> list[StagedRow]:
    """The rows of a staged JSONL file; keys besides ``id, question, options, answer, seen`` are stages' gold texts.

    Raises:
        LiteStageError: no such file, no rows, a line that is not JSON, a missing key, a row that is no valid question,
            a stage with neither a text nor one text per option, or ``seen`` texts of no stage or of another shape.
    """
    path = Path(path)
    if not path.exists():
        raise LiteStageError(f"There is no staged JSONL file {str(path)!r}; give the path of one.")
    rows = [_row(line, f"{path.name}, line {number}") for number, line in read_lines(path)]
    if not rows:
        raise LiteStageError(f"The staged JSONL file {str(path)!r} has no rows; give it at least one.")
    return rows


def _row(line: str, where: str) -> StagedRow:
    try:
        raw: dict[str, Any] = parse_json(line)
        if not isinstance(raw["options"], list):
            raise TypeError
        question = Question(str(raw["id"]), raw["question"], tuple(raw["options"]), raw["answer"])
    except LiteStageError as error:
        raise LiteStageError(f"{where}: {error}") from None
    except KeyError as error:
        raise LiteStageError(f"{where} has no {error.args[0]!r}; a row needs {', '.join(_QUESTION_KEYS)}.") from None
    except (ValueError, TypeError, AttributeError):
        raise LiteStageError(f"{where} is not a staged row: {line[:80]!r}; write one JSON object a line.") from None
    gold = {key: value for key, value in raw.items() if key not in (*_QUESTION_KEYS, _SEEN)}
    count = len(question.options)
    for stage, text in gold.items():
        if not _is_text(text, count):
            raise LiteStageError(
                f"{where}: the stage {stage!r} has {text!r:.80}; give one text, or one for each of the {count} options."
            )
    seen = raw.get(_SEEN, {})
    if not isinstance(seen, dict):
        raise LiteStageError(f"{where}: seen is {seen!r:.80}; give a list of texts for each stage.")
    for stage, texts in seen.items():
        if stage not in gold:
            raise LiteStageError(f"{where}: seen has {stage!r}, {did_you_mean(stage, gold)}")
        alike = isinstance(texts, list) and all(
            _is_text(text, count) and isinstance(text, list) == isinstance(gold[stage], list) for text in texts
        )
        if not alike:
            raise LiteStageError(
                f"{where}: seen has {texts!r:.80} for {stage!r}; give a list whose every item is shaped like {stage!r}."
            )
    return StagedRow(question, gold, seen)


def _is_text(text: Any, options: int) -> bool:
    """One text that is not blank, or one for each option."""
    texts = text if isinstance(text, list) and len(text) == options else [text]
    return all(isinstance(each, str) and bool(each.strip()) for each in texts)
