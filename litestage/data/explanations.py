"""What a stage should write, put together from what people wrote about a question: facts, steps, properties.

It stands in for TinyThinker's training data, which GPT-4o wrote and nobody published: the facts here are people's, the
words around them a few fixed wordings. A format says which facts a row gives to the book of all training questions,
what ``recall`` should write, and for each option the evidence that ``analyze`` weighs before its verdict. Evidence is
found in the book by the option's words, in the same way for every option and without looking at which one is right: its
form gives no verdict away, and the verdict is left to the model. Adding a format is three functions and one registry
line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from litestage.data.facts import FactBook, key_words, stems, within
from litestage.data.rows import Row
from litestage.stages import Question
from litestage.stages.pipeline import as_sentence

WORDINGS = ("{option}: {fact}", "think of {option}: {fact}", "it says {option}; {fact}")
"""How evidence about an option is put; `drawn` chooses by question and option."""


class NotExplained(Exception):
    """A question cannot be explained from its row; the message says why, to be counted."""


@dataclass(frozen=True)
class Format:
    """How a published format is explained.

    Attributes:
        facts: what a row gives to the book.
        recall: the gold fact or facts, short. Raises NotExplained.
        evidence: for each option, without a verdict and blind to the answer.
    """

    facts: Callable[[Row], list[str]]
    recall: Callable[[Question, Row, FactBook], str]
    evidence: Callable[[Question, Row, FactBook], list[str]]


def _obqa_facts(row: Row) -> list[str]:
    """``fact1`` of the config ``additional``."""
    return [fact] if (fact := _one_line(row.get("fact1") or "").rstrip(" .")) else []


def _obqa_recall(question: Question, row: Row, book: FactBook) -> str:
    if not (facts := _obqa_facts(row)):
        raise NotExplained("no fact")
    return sentences(facts)


def _obqa_evidence(question: Question, row: Row, book: FactBook) -> list[str]:
    return _found(question, book)


def _found(question: Question, book: FactBook, but: Collection[str] = ()) -> list[str]:
    """For each option what the book says about it, in at most 18 words with the option's; a fact may be lacking."""
    asked = stems(question.text)
    evidence = []
    for option in question.options:
        facts = book.nearest(
            stems(option), asked - stems(option), words=max(7, 18 - len(option.split())), covers=0.4, but=but
        )
        evidence.append(_worded(question, option, facts[0] if facts else ""))
    return evidence


def _csqa_facts(row: Row) -> list[str]:
    """ECQA's properties (Aggarwal et al., 2021) for and against options, without those that judge by their form."""
    lines = [line for name in ("taskA_pos", "taskA_neg") for line in _lines(row, name)]
    return [line for line in lines if len(line.split()) > 2 and not _JUDGES.search(line) and not _DANGLES.match(line)]


def _csqa_recall(question: Question, row: Row, book: FactBook) -> str:
    """What speaks for the answer; where ECQA says nothing, what other questions' properties say about the concept."""
    if speak_for := _lines(row, "taskA_pos"):
        return sentences(within(speak_for, count=2, words=35))
    concept, asked = _one_line(row["question_concept"]), stems(question.text)
    answer = stems(question.options[question.labels.index(str(question.answer))])
    others = frozenset().union(*map(stems, question.options)) - answer - asked
    found = [
        fact
        for covers in (1.0, 0.5)
        for fact in book.nearest(stems(concept), asked | answer, count=10, covers=covers, words=25)
        if not others & stems(fact)
    ]
    return sentences(found[:1] or [f"{concept} is what the question is about"])


def _csqa_evidence(question: Question, row: Row, book: FactBook) -> list[str]:
    """Without the properties that say the question again, or that recall has said: only a right option has those."""
    asked = stems(question.text)
    recall = _csqa_recall(question, row, book)
    told = stems(recall)
    but = [fact for fact in _csqa_facts(row) if 2 * len(asked & stems(fact)) >= len(asked) or stems(fact) <= told]
    return _found(question, book, [*but, recall.rstrip(".")])


def _strategy_facts(row: Row) -> list[str]:
    """Sentence by sentence (``ChilleD/StrategyQA`` has them as one text)."""
    facts = row.get("facts") or []
    texts = [_one_line(fact) for fact in ([facts] if isinstance(facts, str) else facts)]
    return [as_sentence(line) for text in texts for line in re.split(r"(?<=[a-z)0-9]\.)\s+(?=[A-Z])", text) if line]


def _strategy_recall(question: Question, row: Row, book: FactBook) -> str:
    if not (facts := _strategy_facts(row)):
        raise NotExplained("no facts")
    return sentences(within(facts, count=3, words=60))


def _strategy_evidence(question: Question, row: Row, book: FactBook) -> list[str]:
    """The last step that the question comes down to, with what it refers to; the same for yes and no.

    The facts are what ``recall`` says; where there are no steps, the first stands for them.
    """
    steps = [_one_line(step) for step in row.get("decomposition") or []]
    said = _resolved(steps, len(steps) - 1) if steps else _strategy_facts(row)[0]
    return [_worded(question, option, " ".join(said.split()[:18])) for option in question.options]


def _resolved(steps: Sequence[str], place: int) -> str:
    """A step in which the key words of the steps before it stand where it names them by number."""

    def named(number: re.Match[str]) -> str:
        earlier = int(number[1]) - 1
        return " ".join(key_words(_resolved(steps, earlier))[-4:]) if 0 <= earlier < place else "that"

    return re.sub(r"#(\d+)", named, steps[place])


FORMATS = {
    "openbookqa": Format(_obqa_facts, _obqa_recall, _obqa_evidence),
    "commonsense_qa": Format(_csqa_facts, _csqa_recall, _csqa_evidence),
    "strategyqa": Format(_strategy_facts, _strategy_recall, _strategy_evidence),
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


def _worded(question: Question, option: str, fact: str) -> str:
    wording = WORDINGS[drawn(question.id, option) % len(WORDINGS)]
    said = wording if fact else wording.removesuffix(": {fact}").removesuffix("; {fact}")
    return said.format(option=_one_line(option).rstrip(" .,;:"), fact=fact.rstrip(" .,;:?"))


def _lines(row: Row, name: str) -> list[str]:
    return [line for each in (row.get(name) or "").split("\n") if (line := _one_line(each).rstrip(" ."))]


def _one_line(text: str) -> str:
    return " ".join(text.split())
