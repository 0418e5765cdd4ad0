"""Endless optimiser steps: which examples each is made of, in an order that a run which goes on finds again."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import TYPE_CHECKING, TypeVar

from torch.utils.data import IterableDataset

from litestage.errors import LiteStageError, known_stages
from litestage.training.examples import Example, ExampleTokens, row_examples
from litestage.training.tree import TokenTree, TreeBatch, micro_batches, tree_of

if TYPE_CHECKING:
    from litestage.stages import Pipeline
    from litestage.stages.gold import StagedRow

Drawn = TypeVar("Drawn")


class Steps(IterableDataset[list[TreeBatch]]):
    """Endless optimiser steps, each a list of micro-batches of at most ``tokens`` tokens.

    Attributes:
        start: how many steps to pass over, for a run that goes on.
    """

    def __init__(self, tokens: int, seed: int) -> None:
        self.tokens, self.seed, self.start = tokens, seed, 0

    def __iter__(self) -> Iterator[list[TreeBatch]]:
        for trees in islice(self.trees(), self.start, None):
            yield micro_batches(trees, self.tokens)

    @abstractmethod
    def trees(self) -> Iterator[list[TokenTree]]:
        """Step by step, the trees of a step."""


class StageSteps(Steps):
    """Steps of so many examples of every stage, each by itself. Every example is used once before any is used again.

    Args:
        examples: by stage.
        rows: by stage, how many examples a step takes.

    Raises:
        LiteStageError: rows for a stage that is not there, or for none.
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        encode: ExampleTokens,
        rows: Mapping[str, int],
        tokens: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(tokens, seed)
        known_stages("rows", rows, examples)
        _some("rows", rows)
        self.examples, self.encode, self.rows = examples, encode, rows

    def trees(self) -> Iterator[list[TokenTree]]:
        draw = random.Random(self.seed)
        streams = {stage: _shuffled_forever(self.examples[stage], draw) for stage, each in self.rows.items() if each}
        for _ in count():
            yield [
                tree_of(self.encode.of_stage([next(stream)]))
                for stage, stream in streams.items()
                for _ in range(self.rows[stage])
            ]


class QuestionSteps(Steps):
    """Steps of so many questions, each one tree of all its stages' examples, or a tree for each stage.

    Args:
        rows: the questions with their gold texts.
        questions: how many a step takes.
        share: by stage, in what share of the questions it is trained (1 where none is given, 0 is never). A question
            for which no stage is drawn trains one of those with a share, drawn by their shares.
        seen: how often a later stage's prompt holds a text that a model might have written before it, where the row
            has such texts, in place of the gold one.
        apart: a tree for each stage, where stages are not trained under the same sub-layers.

    Raises:
        LiteStageError: a share for a stage that is not there, no stage with one, or rows that lack a text.
    """

    def __init__(
        self,
        rows: Sequence[StagedRow],
        pipeline: Pipeline,
        encode: ExampleTokens,
        questions: int,
        share: Mapping[str, float] | None = None,
        seen: float = 0.0,
        tokens: int = 0,
        seed: int = 0,
        apart: bool = False,
    ) -> None:
        super().__init__(tokens, seed)
        self.apart = apart
        self.rows, self.pipeline, self.encode = rows, pipeline, encode
        self.questions, self.seen = questions, seen
        known_stages("stage_share", share or {}, pipeline.stage_names)
        self.share = {stage: (share or {}).get(stage, 1.0) for stage in pipeline.stage_names}
        _some("stage_share", self.share)
        for row in rows:
            row_examples(row, pipeline)

    def trees(self) -> Iterator[list[TokenTree]]:
        draw = random.Random(self.seed)
        stream = _shuffled_forever(self.rows, draw)
        for _ in count():
            yield [tree for _ in range(self.questions) for tree in self.question(next(stream), draw)]

    def question(self, row: StagedRow, draw: random.Random) -> list[TokenTree]:
        """One question's tree or trees, with what is left to chance drawn anew."""
        seen = {stage: draw.choice(texts) for stage, texts in row.seen.items() if texts and draw.random() < self.seen}
        examples = row_examples(row, self.pipeline, seen)
        trained = [stage for stage in examples if draw.random() < self.share[stage]]
        trained = trained or draw.choices(list(self.share), list(self.share.values()))
        sequences = {stage: self.encode.of_stage(examples[stage]) for stage in trained}
        if self.apart:
            return [tree_of(each, stage) for stage, each in sequences.items()]
        return [tree_of(sequence for each in sequences.values() for sequence in each)]


def _some(option: str, of_stages: Mapping[str, float]) -> None:
    if not any(of_stages.values()):
        raise LiteStageError(f"{option} is 0 for {', '.join(of_stages)}; give one of them more.")


def _shuffled_forever(items: Sequence[Drawn], draw: random.Random) -> Iterator[Drawn]:
    while True:
        yield from draw.sample(items, len(items))
