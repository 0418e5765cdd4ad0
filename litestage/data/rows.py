"""From rows as they are published to questions. Adding a format is one function and one registry line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from litestage.errors import LiteStageError
from litestage.reading import parse_json, read_lines
from litestage.stages import Question

Row = Mapping[str, Any]


def own(row: Row, row_id: str) -> Question:
    """A user's own row: ``{question, options, answer}``; the answer is a letter or the text of an option."""
    options = row["options"]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise LiteStageError(f"options is {options!r}; it is a list of texts.")
    answer = row["answer"]
    if isinstance(answer, str) and answer in options[:26]:
        letter, letters = ascii_uppercase[options.index(answer)], ascii_uppercase[: len(options)]
        if answer in list(letters) and answer != letter:
            raise LiteStageError(
                f"the answer {answer!r} is one option's letter and another's text; write the options in another order."
            )
        if options.count(answer) > 1 and answer not in list(letters):
            raise LiteStageError(f"the answer {answer!r} is the text of several options; give the right one's letter.")
        answer = letter
    return Question(_id(row.get("id"), row_id), _text(row["question"]), tuple(options), _letter(answer))


def openbookqa(row: Row, row_id: str) -> Question:
    """``allenai/openbookqa``. The gold fact (``fact1``) is left out: the task is closed-book."""
    return Question(_id(row["id"], row_id), _text(row["question_stem"]), _choices(row), _letter(row["answerKey"]))


def commonsense_qa(row: Row, row_id: str) -> Question:
    """``tau/commonsense_qa``."""
    return Question(_id(row["id"], row_id), _text(row["question"]), _choices(row), _letter(row["answerKey"]))


def strategyqa(row: Row, row_id: str) -> Question:
    """``ChilleD/StrategyQA``: yes is option A, no is option B. Facts and decomposition are left out."""
    if not isinstance(row["answer"], bool):
        raise LiteStageError(f"answer is {row['answer']!r}; it is true or false.")
    return Question(_id(row["qid"], row_id), _text(row["question"]), ("yes", "no"), "A" if row["answer"] else "B")


FORMATS: dict[str, Callable[[Row, str], Question]] = {
    "questions": own,
    "openbookqa": openbookqa,
    "commonsense_qa": commonsense_qa,
    "strategyqa": strategyqa,
}


def _id(value: Any, row_id: str) -> str:
    """A row's own id; a row without one gets ``row_id``."""
    if value is None:
        return row_id
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise LiteStageError(f"the id is {value!r:.80}; it is a text or a whole number.")
    return str(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise LiteStageError(f"the question is {value!r}; it is a text.")
    return value.strip()


def _letter(value: Any) -> str:
    if not isinstance(value, str):
        raise LiteStageError(f"the answer is {value!r}; it is the letter of an option.")
    return value


def _choices(row: Row) -> tuple[str, ...]:
    labels, texts = row["choices"]["label"], row["choices"]["text"]
    if list(labels) != list(ascii_uppercase[: len(texts)]):
        raise LiteStageError(f"the options are labelled {labels!r}; they go A, B, C in order.")
    return tuple(text.strip() for text in texts)


def to_questions(rows: Iterable[tuple[int, Row]], format: str, where: str, *, prefix: str) -> list[Question]:
    """Every numbered row as a question; a row without an id gets ``<prefix>-<row number>``.

    Raises:
        LiteStageError: names the file, the row (from 1) and the value of the first malformed row, or of an id that
            occurs twice, or says that there are no rows.
    """
    convert = FORMATS[format]
    questions: dict[str, Question] = {}
    for number, row in rows:
        try:
            question = convert(row, f"{prefix}-{number}")
        except LiteStageError as error:
            raise LiteStageError(f"{where}, row {number}: {error}") from None
        except KeyError as error:
            raise LiteStageError(f"{where}, row {number} has no {error.args[0]!r}: {_short(row)}; add it.") from None
        except (TypeError, AttributeError):
            raise LiteStageError(f"{where}, row {number} is not a question: {_short(row)}; correct it.") from None
        if question.id in questions:
            raise LiteStageError(f"{where}, row {number}: the id {question.id!r} occurs twice; give each row its own.")
        questions[question.id] = question
    if not questions:
        raise LiteStageError(f"{where} has no rows; give it at least one.")
    return list(questions.values())


def read_jsonl(path: Path) -> list[tuple[int, Row]]:
    """(line number from 1, object) for every line that is not blank.

    Raises:
        LiteStageError: a file that :func:`litestage.reading.read_text` refuses, or a line that is not a JSON object.
    """
    rows: list[tuple[int, Row]] = []
    for number, line in read_lines(path):
        try:
            row, reason = parse_json(line), ""
        except ValueError as error:
            row, reason = None, f" ({error})"
        if not isinstance(row, dict):
            raise LiteStageError(
                f"{path}, row {number} is not a JSON object: {_short(line)}; write one object a line{reason}."
            )
        rows.append((number, row))
    return rows


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
