"""Training examples, built through the pipeline: every prompt is the one the engine will see.

Prompt and completion are tokenised apart, as at inference, where the completion is generated after the prompt's
tokens. The context holds no end-of-text token, because the pipeline's prompts hold none. The loss falls on the
completion and the end-of-text token that closes it; also, as far as ``earlier_weight`` says, on what earlier stages
wrote where a later prompt repeats it. What follows such a text in the prompt is never a target: at inference the text
ends there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import IterableDataset

from litestage.errors import LiteStageError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from litestage.data.staged import StagedRow
    from litestage.stages import Pipeline
    from litestage.training.config import TokenWeight


@dataclass(frozen=True)
class Example:
    """What a stage is given and what it should write (with the leading space that follows the prompt).

    ``earlier`` are the parts of the prompt, as (start, end) in characters, that earlier stages wrote.
    """

    prompt: str
    completion: str
    earlier: tuple[tuple[int, int], ...] = ()


class Batch(NamedTuple):
    """Rows padded on the right. Shapes ``[rows, tokens]``; ``weights`` is 0 where a token is context or padding."""

    input_ids: torch.Tensor
    weights: torch.Tensor


def stage_examples(rows: Sequence[StagedRow], pipeline: Pipeline) -> dict[str, list[Example]]:
    """By stage name, one example per row, or one per row and option where the stage fans out.

    Raises:
        LiteStageError: a row without a text for a stage, or with one text where one per option is due.
    """
    examples: dict[str, list[Example]] = {name: [] for name in pipeline.stage_names}
    for row in rows:
        written: list[str] = []
        for stage in pipeline.stages:
            gold = row.gold.get(stage.name)
            if gold is None or isinstance(gold, list) != stage.per_option:
                needs = "one text per option" if stage.per_option else "one text"
                raise LiteStageError(f"Row {row.question.id!r} needs {needs} under {stage.name!r}; add it to the data.")
            texts = [text.strip() for text in (gold if isinstance(gold, list) else [gold])]
            for prompt, text in zip(stage.prompts(row.question, row.gold), texts, strict=True):
                examples[stage.name].append(Example(prompt, f" {text}", _spans(written, prompt)))
            written += texts
    return examples


def _spans(texts: Sequence[str], prompt: str) -> tuple[tuple[int, int], ...]:
    """Where the texts stand in the prompt, one after the other, each with the space before it."""
    spans, cursor = [], 0
    for text in texts:
        if (start := prompt.find(f" {text}", cursor)) >= 0:
            cursor = start + 1 + len(text)
            spans.append((start, cursor))
    return tuple(spans)


class StagedBatches(IterableDataset[list[Batch]]):
    """Endless optimiser steps, each a list with one batch per stage (stages differ in length, so padding stays small).

    Args:
        examples: by stage.
        rows: by stage, how many examples a step takes. Every example is used once before any is used again.
        token_weights: see `litestage.training.config.TokenWeight`.
        earlier_weight: what the texts of earlier stages in a prompt count in the loss.

    Attributes:
        start: how many lists to pass over, for a run that goes on.

    Raises:
        LiteStageError: rows for a stage that is not there, or a tokenizer without an end of text.
    """

    def __init__(
        self,
        examples: Mapping[str, Sequence[Example]],
        tokenizer: PreTrainedTokenizerFast,
        rows: Mapping[str, int],
        token_weights: Sequence[TokenWeight] = (),
        earlier_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        for stage in rows:
            if stage not in examples:
                raise LiteStageError(f"rows names the stage {stage!r}; {did_you_mean(stage, examples)}")
        if tokenizer.eos_token_id is None:
            raise LiteStageError("The tokenizer has no end-of-text token; set eos_token in its tokenizer_config.json.")
        self.examples, self.tokenizer, self.rows, self.seed = examples, tokenizer, rows, seed
        self.start = 0
        self.earlier_weight = earlier_weight
        self.token_weights = [(re.compile(each.pattern), each.weight) for each in token_weights]

    def __iter__(self) -> Iterator[list[Batch]]:
        draw = random.Random(self.seed)
        streams = {stage: _shuffled_forever(self.examples[stage], draw) for stage, each in self.rows.items() if each}
        for number in count():
            drawn = [[next(stream) for _ in range(self.rows[stage])] for stage, stream in streams.items()]
            if number >= self.start:
                yield [self._batch(each) for each in drawn]

    def _batch(self, examples: Sequence[Example]) -> Batch:
        rows = [self._tokens(example) for example in examples]
        longest = max(len(ids) for ids, _ in rows)
        # Any id would do as padding: its weight is 0 and nothing to its left sees it.
        return Batch(
            torch.tensor([ids + [ids[-1]] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([weights + [0.0] * (longest - len(weights)) for _, weights in rows]),
        )

    def _tokens(self, example: Example) -> tuple[list[int], list[float]]:
        """Token ids of prompt, completion and end of text, and each one's weight in the loss."""
        prompt = self.tokenizer(example.prompt, return_offsets_mapping=True)
        context = [
            self.earlier_weight if any(first <= start < end <= last for first, last in example.earlier) else 0.0
            for start, end in prompt["offset_mapping"]
        ]
        text = example.completion.lstrip() if self._adds_space else example.completion
        completion = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        weights = [1.0] * len(completion["input_ids"])
        for pattern, weight in self.token_weights:
            for match in pattern.finditer(text):
                for index, (start, end) in enumerate(completion["offset_mapping"]):
                    if start < match.end() and end > match.start():
                        weights[index] = weight
        ids = [*prompt["input_ids"], *completion["input_ids"], self.tokenizer.eos_token_id]
        return ids, [*context, *weights, 1.0]

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before any text by itself, as SentencePiece's do."""
        spaced, bare = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" a", "a"))
        return len(spaced) > len(bare)


def _shuffled_forever(examples: Sequence[Example], draw: random.Random) -> Iterator[Example]:
    while True:
        yield from draw.sample(examples, len(examples))
