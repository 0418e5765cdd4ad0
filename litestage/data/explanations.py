"""What ``recall`` should write, out of what people wrote about a question: facts and properties.

It stands in for TinyThinker's training data, which GPT-4o wrote and nobody published. A format says which facts a row
gives to the book of all training questions, and what ``recall`` should write. Adding a format is two functions and one
registry line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import sha256

from litestage.data.facts import FactBook, stems, within
from litestage.data.rows import Row
from litestage.stages import Question
from litestage.stages.template import as_sentence


class NotExplained(Exception):
    """A question cannot be explained from its row; the message says why, to be counted."""


@dataclass(frozen=True)
class Format:
    """How a published format is explained.

    Attributes:
        facts: what a row gives to the book.
        recall: the gold fact or facts, short. Raises NotExplained.
    """

    facts: Callable[[Row], list[str]]
    recall: Callable[[Question, Row, FactBook], str]


def _obqa_facts(row: Row) -> list[str]:
    """``fact1`` of the config ``additional``."""
    return [fact] if (fact := _one_line(row.get("fact1") or "").rstrip(" .")) else []


def _obqa_recall(question: Question, row: Row, book: FactBook) -> str:
    if not (facts := _obqa_facts(row)):
        raise NotExplained("no fact")
    return sentences(facts)


def _csqa_facts(row: Row) -> list[str]:
    """ECQA's properties (Aggarwal et al., 2021) for and against options, without those that judge by their form."""
    lines = [line for name in ("taskA_pos", "taskA_neg") for line in _lines(row, name)]
    return [line for line in lines if len(line.split()) > 2 and not _JUDGES.search(line) and not _DANGLES.match(line)]


def _csqa_recall(question: Question, row: Row, book: FactBook) -> str:
    """What speaks for the answer; where ECQA says nothing, what other questions' properties say about the concept."""
    if speak_for := _lines(row, "taskA_pos"):
        return sentences(within(speak_for, count=1, words=20))
    concept, asked = _one_line(row["question_concept"]), stems(question.text)
    answer = stems(question.options[question.labels.index(str(question.answer))])
    others = frozenset().union(*map(stems, question.options)) - answer - asked
    found = [
        fact
        for covers in (1.0, 0.5)
        for fact in book.nearest(stems(concept), asked | answer, count=10, covers=covers, words=20)
        if not others & stems(fact)
    ]
    return sentences(found[:1] or [f"{concept} is what the question is about"])


def _strategy_facts(row: Row) -> list[str]:
    """Sentence by sentence (``ChilleD/StrategyQA`` has them as one text)."""
    facts = row.get("facts") or []
    texts = [_one_line(fact) for fact in ([facts] if isinstance(facts, str) else facts)]
    return [as_sentence(line) for text in texts for line in re.split(r"(?<=[a-z)0-9]\.)\s+(?=[A-Z])", text) if line]


def _strategy_recall(question: Question, row: Row, book: FactBook) -> str:
    if not (facts := _strategy_facts(row)):
        raise NotExplained("no facts")
    return sentences(within(facts, count=2, words=40))


FORMATS = {
    "openbookqa": Format(_obqa_facts, _obqa_recall),
    "commonsense_qa": Format(_csqa_facts, _csqa_recall),
    "strategyqa": Format(_strategy_facts, _strategy_recall),
}


def drawn(*of: str) -> int:
    """A number that looks random and is the same every time for the same texts."""
    return int.from_bytes(sha256("/".join(of).encode()).digest()[:6], "big")


def sentences(texts: Iterable[str]) -> str:
    """One line, each text a sentence of it."""
    lines = [_one_line(text) for text in texts]
    return " ".join(as_sentence(line[:1].upper() + line[1:]) for line in lines if line)


_JUDGES = re.compile(
    r"\b(not|no|none|nor|never|cannot|cant|wont|dont|doesnt|isnt|arent|nothing|nobody|without|unlike|irrelevant|relevant"
    r"|incorrect|correct|wrong|right|options?|answer|choices?|suitable|appropriate|unrelated|related)\b|n['\u2019]t\b",
    re.IGNORECASE,
)
_DANGLES = re.compile(r"(they|he|she|it|i|this|these|that|those|as|we|his|her|their|is|are|hence|so)\b", re.IGNORECASE)
"""How a text begins that says nothing without the one before it."""


def _lines(row: Row, name: str) -> list[str]:
    return [line for each in (row.get(name) or "").split("\n") if (line := _one_line(each).rstrip(" ."))]


def _one_line(text: str) -> str:
    return " ".join(text.split())
