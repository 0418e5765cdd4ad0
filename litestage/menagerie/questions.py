"""Questions about the menagerie, in three variants, with the gold text of every stage.

==================  =======================  ===========================================
variant             mirrors                  options
==================  =======================  ===========================================
``menagerie``       OpenBookQA               the right value and three wrong ones
``menagerie_five``  CommonsenseQA            the right value and four wrong ones
``menagerie_yesno`` StrategyQA               yes, no: does the value asked about hold?
==================  =======================  ===========================================

The facts are the same in all splits (they cannot be guessed); what is asked in one split is not asked in another:

- with options, no two rows of a variant share animal, relation and set of options, in whatever order;
- with yes or no, no triple (animal, relation, value asked) is in two splits. Only 720 triples are true, of which test
  takes 300 and calibration 256, so the training split repeats its 164 true ones to keep yes and no balanced.

Right answers are spread evenly over the letters.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import cycle, islice

from litestage.errors import LiteStageError, did_you_mean
from litestage.menagerie.world import SEED, Fact, facts, with_article
from litestage.stages import Question
from litestage.stages.gold import StagedRow

OPTION_COUNTS = {"menagerie": 4, "menagerie_five": 5, "menagerie_yesno": 2}
VARIANTS = tuple(OPTION_COUNTS)
SETS = {"menagerie": 165, "menagerie_five": 330}
"""How many sets of wrong options there are for a fact, of eleven values; with yes or no there are none left to ask."""
SIZES = {"test": 600, "calibration": 512, "train": 7200}
"""Rows per split, in the order they are drawn: a later split leaves out what an earlier one asks."""


def load_split(variant: str, split: str) -> list[StagedRow]:
    """The rows of one split: ``train`` (7,200), ``calibration`` (512) or ``test`` (600). Always the same ones.

    Raises:
        LiteStageError: an unknown variant or split.
    """
    if variant not in OPTION_COUNTS:
        raise LiteStageError(f"There is no menagerie variant {variant!r}; {did_you_mean(variant, VARIANTS)}")
    if split not in SIZES:
        raise LiteStageError(f"The menagerie has no split {split!r}; {did_you_mean(split, SIZES)}")
    stream = _rows(variant)
    start = 0
    for name, size in SIZES.items():
        if name == split:
            break
        start += size
    rows = islice(stream, start, start + SIZES[split])
    return [_staged(f"{variant}-{split}-{number}", *row) for number, row in enumerate(rows)]


def fresh(variant: str, count: int) -> list[Question]:
    """As many questions as wanted that no split has, in the splits' own distribution. Always the same ones.

    Raises:
        LiteStageError: a variant of which there are no more, or not so many.
    """
    started, rounds = sum(SIZES.values()), SETS[variant] * len(facts()) if variant in SETS else 0
    if started + count > rounds:
        raise LiteStageError(
            f"The menagerie has {max(0, rounds - started)} questions of the variant {variant!r} that no split has, not "
            f"{count}; ask for fewer."
        )
    rows = islice(_rows(variant), started, started + count)
    return [_staged(f"{variant}-fresh-{number}", *row).question for number, row in enumerate(rows)]


def _rows(variant: str) -> Iterator[_Drawn]:
    """A variant's rows in the order they are drawn: the splits', and with options any number more."""
    draw = random.Random(f"{SEED}/{variant}")
    return _yes_no_rows(draw) if variant == "menagerie_yesno" else _option_rows(variant, draw)


_Drawn = tuple[Fact, str, tuple[str, ...], str]
"""A fact, the value asked about (the right one unless it is a yes/no question), the options and the answer."""


def _option_rows(variant: str, draw: random.Random) -> Iterator[_Drawn]:
    """Endless rows, each fact once per round, never the same set of options for a fact twice."""
    count = OPTION_COUNTS[variant]
    asked: set[tuple[str, str, frozenset[str]]] = set()
    place = 0
    while True:
        for fact in draw.sample(facts(), len(facts())):
            wrong = [value for value in fact.relation.values if value != fact.value]
            others = draw.sample(wrong, count - 1)
            while (key := (fact.animal, fact.relation.name, frozenset(others))) in asked:
                others = draw.sample(wrong, count - 1)
            asked.add(key)
            options = (*others[:place], fact.value, *others[place:])
            yield fact, fact.value, options, "ABCDE"[place]
            place = (place + 1) % count


def _yes_no_rows(draw: random.Random) -> Iterator[_Drawn]:
    """Yes and no in turn, in random order within each split. A split's true and false triples are its own."""
    true = [(fact, fact.value) for fact in facts()]
    false = [(fact, value) for fact in facts() for value in fact.relation.values if value != fact.value]
    draw.shuffle(true)
    draw.shuffle(false)
    start = 0
    for size in SIZES.values():
        half = size // 2
        chosen = [*islice(cycle(true[start : start + half]), half), *false[start : start + half]]
        for fact, value in draw.sample(chosen, size):
            yield fact, value, ("yes", "no"), "A" if value == fact.value else "B"
        start += half


def _staged(row_id: str, fact: Fact, asked: str, options: tuple[str, ...], answer: str) -> StagedRow:
    yes_no = options == ("yes", "no")
    template = fact.relation.yes_no if yes_no else fact.relation.question
    question = Question(row_id, template.format(animal=with_article(fact.animal), value=asked), options, answer)
    analyses = [
        _analysis(f"{option}, " if yes_no else "", asked if yes_no else option, fact.value, label == answer)
        for label, option in zip(question.labels, options, strict=True)
    ]
    summary = f"So the answer is option {answer}."
    return StagedRow(question, {"recall": fact.statement, "analyze": analyses, "summarize": summary})


def _analysis(opening: str, value: str, truth: str, correct: bool) -> str:
    """Compares before it judges: a verdict before its evidence is not learned by so small a model."""
    found = "same" if value == truth else "different"
    verdict = "correct" if correct else "incorrect"
    return f"{opening}compare {value} with {truth}: {found}, so it is {verdict}."
