"""What a stage should write, put together from what people wrote about a question: facts, steps, properties.

One function per published format, from a question and its row to the texts of ``recall`` and ``analyze``; ``summarize``
is the same for all. It stands in for TinyThinker's training data, which GPT-4o wrote and nobody published: the facts
here are people's, but the sentences around them are fixed ones, and where no one explained an option, its verdict
stands on the fact alone. Adding a format is one function and one registry line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from litestage.data.rows import Row
from litestage.stages import Question
from litestage.stages.pipeline import as_sentence


class NotExplained(Exception):
    """A question cannot be explained from its row; the message says why, to be counted."""


@dataclass(frozen=True)
class Explanation:
    """What ``recall`` should write, and ``analyze`` for each option."""

    recall: str
    analyze: tuple[str, ...]


def openbookqa(question: Question, row: Row) -> Explanation:
    """``fact1`` of the config ``additional``. Nobody explained the options: one of them follows from it."""
    fact = _one_line(row.get("fact1") or "").rstrip(".")
    if not fact:
        raise NotExplained("no fact")
    return Explanation(
        _sentences([fact]),
        tuple(
            f'{fact}; "{_one_line(option)}" {"follows" if right else "does not follow"}, {_verdict(right)}'
            for option, right in _options(question)
        ),
    )


def strategyqa(question: Question, row: Row) -> Explanation:
    """The facts, and the steps the question comes down to (``ChilleD/StrategyQA`` has facts only, as one text)."""
    facts = row.get("facts") or []
    facts = [facts] if isinstance(facts, str) else facts
    if not any(fact.strip() for fact in facts):
        raise NotExplained("no facts")
    steps = [re.sub(r"#(\d+)", r"answer \1", _one_line(step)) for step in row.get("decomposition") or []]
    asked = " ".join(f"({number}) {step}" for number, step in enumerate(steps, start=1))
    answer = "yes" if question.answer == "A" else "no"
    found = f"{asked} The facts answer {answer}" if asked else f"the facts answer {answer}"
    return Explanation(_sentences(facts), tuple(f"{found}, {_verdict(right)}" for _, right in _options(question)))


def commonsense_qa(question: Question, row: Row) -> Explanation:
    """ECQA's properties (Aggarwal et al., 2021): those that speak for the answer, and against each other option."""
    lines = {name: [_one_line(line) for line in row[name].split("\n") if line.strip()] for name in _PROPERTIES}
    speak_for, speak_against = lines["taskA_pos"], lines["taskA_neg"]
    if not speak_for:
        raise NotExplained("no property speaks for the answer")
    analyses = []
    for index, (option, right) in enumerate(_options(question)):
        others = [other for place, other in enumerate(question.options) if place != index]
        about = _about(option, others, speak_for if right else speak_against)
        if not about and not right:
            raise NotExplained("an option that no property names")
        said = "; ".join(line.rstrip(".") for line in about or speak_for[-1:])
        analyses.append(f"{said}, {_verdict(right)}")
    return Explanation(_sentences(speak_for), tuple(analyses))


EXPLAIN: dict[str, Callable[[Question, Row], Explanation]] = {
    "openbookqa": openbookqa,
    "commonsense_qa": commonsense_qa,
    "strategyqa": strategyqa,
}

_PROPERTIES = ("taskA_pos", "taskA_neg")
_LITTLE_WORDS = {"a", "an", "and", "at", "by", "for", "from", "in", "is", "it", "its", "of", "on", "or", "the", "to"}


def _about(option: str, others: Sequence[str], properties: Iterable[str]) -> list[str]:
    """The properties that hold every word of the option, or at least one that no other option has."""
    wanted = _stems(option)
    own = wanted - set().union(*map(_stems, others))
    held = {line: _stems(line) for line in properties}
    return [line for line, stems in held.items() if wanted <= stems] or [
        line for line, stems in held.items() if own & stems
    ]


def _stems(text: str) -> set[str]:
    """The words that carry meaning, by their first five letters without a plural's, so *shop* and *shops* are one."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {(word.rstrip("s") or word)[:5] for word in words if word not in _LITTLE_WORDS} or set(words)


def _options(question: Question) -> list[tuple[str, bool]]:
    return [(option.text, option.label == question.answer) for option in question.lettered]


def _verdict(right: bool) -> str:
    return f"so it is {'correct' if right else 'incorrect'}."


def _sentences(texts: Iterable[str]) -> str:
    lines = [_one_line(text) for text in texts]
    return " ".join(as_sentence(line[:1].upper() + line[1:]) for line in lines if line)


def _one_line(text: str) -> str:
    return " ".join(text.split())
