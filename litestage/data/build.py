"""Staged training data out of a task's training rows: which questions, with which texts, and which are left out."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from litestage.data.explanations import FORMATS, NotExplained, drawn, sentences
from litestage.data.facts import FactBook, stems, within
from litestage.data.rows import Row
from litestage.data.sources import DATA, Hub
from litestage.data.task import Task
from litestage.errors import LiteStageError
from litestage.stages import Question
from litestage.stages.gold import StagedRow

ECQA = Hub("yangdong/ecqa", format="commonsense_qa", folder="ecqa")
"""Explanations by CommonsenseQA id, in splits of their own."""
NEARLY = 0.8
"""Words two questions share, of the words in either, from which they count as nearly the same."""


@dataclass(frozen=True)
class Built:
    """Training rows, and how many questions were left out for which reason.

    Attributes:
        rows: by question, in the training split's order.
        left_out: by reason.
        alike: pairs (id of a training question left out, id of the other split's question that it repeats).
    """

    rows: list[StagedRow]
    left_out: Mapping[str, int]
    alike: list[tuple[str, str]]


def build(task: Task, questions: int | None = None) -> Built:
    """Staged rows from the task's training split, never from calibration or test, the same ones every time.

    Args:
        questions: at most so many, the first ones.

    Raises:
        LiteStageError: a task of which nobody explained the answers, or data that cannot be reached.
    """
    source = task.source
    if not isinstance(source, Hub) or "train" not in task.splits:
        raise LiteStageError(
            f"The task {task.name!r} has no published explanations; those of obqa, csqa and strategyqa do. For your "
            "own rows write a JSONL file with id, question, options, answer, recall, analyze (a list) and summarize."
        )
    explained = _explanations(source, task.splits["train"].of)
    asked = task.questions("train")
    repeats = repeated(asked, [question for split in ("calibration", "test") for question in task.questions(split)])
    left_out: Counter[str] = Counter()
    kept: list[Question] = []
    asked_before: set[tuple[str, frozenset[str]]] = set()
    for question in asked:
        key = question.text.lower(), frozenset(option.lower() for option in question.options)
        if question.id in repeats:
            left_out["asked in the same or nearly the same words in calibration or test"] += 1
        elif key in asked_before:
            left_out["an earlier training question and its options again"] += 1
        elif len(key[1]) < len(question.options):
            left_out["two options of the same text"] += 1
        elif question.id not in explained:
            left_out["no explanation"] += 1
        else:
            kept.append(question)
        asked_before.add(key)
    facts = FORMATS[source.format].facts
    book = FactBook(fact for question in kept for fact in facts(explained[question.id]))
    rows: list[StagedRow] = []
    for question in kept:
        try:
            rows.append(_row(question, explained[question.id], book, source.format))
        except NotExplained as reason:
            left_out[str(reason)] += 1
    if not rows:
        raise LiteStageError(
            f"No training question of {task.name!r} can be used: "
            + "; ".join(f"{count}: {reason}" for reason, count in left_out.items())
            + f"; {_remedy(source)}"
        )
    return Built(rows[:questions], dict(left_out), list(repeats.items()))


def repeated(questions: Sequence[Question], others: Sequence[Question]) -> dict[str, str]:
    """By id, the questions whose words are nearly those of another split's question, with that one's id.

    Two questions are alike when they share at least `NEARLY` of the words in either (Jaccard), in whatever order.
    """
    from scipy.sparse import csr_array

    words = [_words(question.text) for question in (*questions, *others)]
    column = {word: index for index, word in enumerate(sorted(set().union(*words)))}
    ends = np.cumsum([0, *map(len, words)])
    places = [column[word] for each in words for word in each]
    held = csr_array((np.ones(len(places), dtype=np.int32), places, ends), shape=(len(words), len(column)))
    sizes = np.diff(ends)
    shared = (held[: len(questions)] @ held[len(questions) :].T).tocoo()
    rows, columns = shared.coords
    either = sizes[rows] + sizes[len(questions) + columns] - shared.data
    alike = shared.data >= NEARLY * either
    pairs = sorted(zip(rows[alike].tolist(), columns[alike].tolist(), strict=True), reverse=True)
    return {questions[row].id: others[column].id for row, column in reversed(pairs)}


def _words(text: str) -> set[str]:
    return set("".join(each if each.isalnum() else " " for each in text.lower()).split())


def _row(question: Question, row: Row, book: FactBook, format: str) -> StagedRow:
    explain, answer = FORMATS[format], str(question.answer)
    recall = explain.recall(question, row, book)
    own = {*explain.facts(row), recall, recall.rstrip(".")}
    others = book.nearest(stems(question.text), count=2, covers=0.0, but=own)

    def analyses(correct: Collection[str]) -> list[str]:
        return [
            f"{' '.join(option.split()).rstrip(' .,;:')} is {'correct' if label in correct else 'incorrect'}."
            for label, option in zip(question.labels, question.options, strict=True)
        ]

    return StagedRow(
        question,
        {
            "recall": recall,
            "analyze": analyses({answer}),
            "summarize": f"So the answer is option {answer}.",
        },
        {
            "recall": [sentences(within([fact], count=1, words=20)) for fact in others],
            "analyze": [analyses(judged(question, number)) for number in range(2)],
        },
    )


def judged(question: Question, number: int) -> set[str]:
    """The options that a model of middling ability might call correct, for a question's first, second, ... time.

    None in a quarter of all draws, two or more in 30 in a hundred (three in a quarter of those, the right one missing
    in a sixth, where there are options enough), else the right one alone.
    """
    draw = random.Random(drawn(question.id, str(number)))
    kind, answer = draw.random(), str(question.answer)
    if kind < 0.25:
        return set()
    if kind >= 0.55:
        return {answer}
    wrong = [label for label in question.labels if label != answer]
    count = min(len(wrong), 3 if draw.random() < 0.25 else 2)
    called = draw.sample(wrong, count)
    if count < 2 or draw.random() >= 1 / 6:
        called[0] = answer
        called += draw.sample(wrong, 1) if count < 2 else []
    return set(called)


def _explanations(source: Hub, split: str) -> dict[str, Row]:
    """By question id, the row that explains it; CommonsenseQA's with what ECQA, in splits of its own, adds to it."""
    if source.format == "openbookqa":
        source = replace(source, config="additional")  # the config ``main`` has no facts
    rows: dict[str, Row] = {row.get("id") or row["qid"]: row for _, row in source.rows(split)}
    if source.format == "commonsense_qa":
        added = {row["q_no"]: row for name in ECQA.names if _is_there(name) for _, row in ECQA.rows(name)}
        rows = {name: {**row, **added.get(name, {})} for name, row in rows.items()} if added else {}
    return rows


def _is_there(name: str) -> bool:
    return not os.environ.get(DATA) or ECQA.file(name).is_file()


def _remedy(source: Hub) -> str:
    return f"put ECQA's rows in ${DATA}/ecqa/." if source.format == "commonsense_qa" else "correct the data."
