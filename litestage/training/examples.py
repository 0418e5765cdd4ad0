"""Training examples, built through the pipeline: every prompt is the one the engine will see.

Prompt and completion are tokenised apart, as at inference, where the completion is generated after the prompt's
tokens. The context holds no end-of-text token, because the pipeline's prompts hold none. The loss falls on the
completion and the end-of-text token that closes it; also, as far as ``earlier_weight`` says, on what earlier stages
wrote where a later prompt repeats it. What follows such a text in the prompt is never a target: at inference the text
ends there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from typing import TYPE_CHECKING

from litestage.errors import LiteStageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from litestage.stages import Pipeline
    from litestage.stages.gold import StagedRow
    from litestage.training.config import TokenWeight


@dataclass(frozen=True)
class Example:
    """What a stage is given and what it should write (with the leading space that follows the prompt).

    ``earlier`` are the parts of the prompt, as (start, end) in characters, that earlier stages wrote.
    """

    prompt: str
    completion: str
    earlier: tuple[tuple[int, int], ...] = ()


def row_examples(
    row: StagedRow, pipeline: Pipeline, seen: Mapping[str, str | list[str]] | None = None
) -> dict[str, list[Example]]:
    """By stage name, the row's example, or one per option where the stage fans out.

    Args:
        seen: by stage, what later prompts hold of it in place of its gold text: a model reads its own texts.

    Raises:
        LiteStageError: a row without a text for a stage, or with one text where one per option is due.
    """
    examples: dict[str, list[Example]] = {}
    outputs = {**row.gold, **(seen or {})}
    written: list[str] = []
    for stage in pipeline.stages:
        gold = row.gold.get(stage.name)
        if gold is None or isinstance(gold, list) != stage.per_option:
            needs = "one text per option" if stage.per_option else "one text"
            raise LiteStageError(f"Row {row.question.id!r} needs {needs} under {stage.name!r}; add it to the data.")
        examples[stage.name] = [
            Example(prompt, f" {text}", _spans(written, prompt))
            for prompt, text in zip(stage.prompts(row.question, outputs), texts_of(gold), strict=True)
        ]
        written += texts_of(outputs[stage.name])
    return examples


def stage_examples(rows: Sequence[StagedRow], pipeline: Pipeline) -> dict[str, list[Example]]:
    """By stage name, the examples of all rows, each with the gold texts of earlier stages in its prompt."""
    of_rows = [row_examples(row, pipeline) for row in rows]
    return {name: [example for each in of_rows for example in each[name]] for name in pipeline.stage_names}


def texts_of(gold: str | list[str]) -> list[str]:
    """A stage's one text, or one per option."""
    return [text.strip() for text in (gold if isinstance(gold, list) else [gold])]


def _spans(texts: Sequence[str], prompt: str) -> tuple[tuple[int, int], ...]:
    """Where the texts stand in the prompt, one after the other, each with the space before it."""
    spans, cursor = [], 0
    for text in texts:
        if (start := prompt.find(f" {text}", cursor)) >= 0:
            cursor = start + 1 + len(text)
            spans.append((start, cursor))
    return tuple(spans)


class ExampleTokens:
    """Turns examples into token ids and loss weights.

    Args:
        completion_weight: of completion tokens that no pattern names.
        earlier_weight: of what earlier stages wrote, where a prompt repeats it.
        ends: the ids that end a generation of the model; of one that the tokenizer has too, that one is taught.

    Raises:
        LiteStageError: neither has an end of text.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        token_weights: Sequence[TokenWeight] = (),
        completion_weight: float = 1.0,
        earlier_weight: float = 0.0,
        ends: Sequence[int] = (),
    ) -> None:
        own = tokenizer.eos_token_id
        self.end = ends[0] if ends and own not in ends else own
        if self.end is None:
            raise LiteStageError("The tokenizer has no end-of-text token; set eos_token in its tokenizer_config.json.")
        self.tokenizer, self.completion_weight, self.earlier_weight = tokenizer, completion_weight, earlier_weight
        self.token_weights = [(re.compile(each.pattern), each) for each in token_weights]

    def of_stage(self, examples: Sequence[Example]) -> list[tuple[list[int], list[float]]]:
        """Token ids of prompt, completion and end of text with each one's weight, for a question's examples of a stage.

        A ``balanced`` pattern gives every wording that it matches the same weight in sum over the examples, however
        often it occurs: of four verdicts, one *correct* weighs as much as three *incorrect*.
        """
        texts = [example.completion.lstrip() if self._adds_space else example.completion for example in examples]
        matches = [[list(pattern.finditer(text)) for pattern, _ in self.token_weights] for text in texts]
        shares = [
            Counter(match.group() for found in matches for match in found[index]) if each.balanced else Counter()
            for index, (_, each) in enumerate(self.token_weights)
        ]
        sequences = []
        for example, text, found in zip(examples, texts, matches, strict=True):
            prompt = self.tokenizer(example.prompt, return_offsets_mapping=True)
            context = [
                self.earlier_weight if any(first <= start < end <= last for first, last in example.earlier) else 0.0
                for start, end in prompt["offset_mapping"]
            ]
            completion = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            weights = [self.completion_weight] * len(completion["input_ids"])
            for (_, each), share, spans in zip(self.token_weights, shares, found, strict=True):
                for match in spans:
                    for index, (start, end) in enumerate(completion["offset_mapping"]):
                        if start < match.end() and end > match.start():
                            weights[index] = each.weight / share.get(match.group(), 1)
            ids = [*prompt["input_ids"], *completion["input_ids"], self.end]
            sequences.append((ids, [*context, *weights, self.completion_weight]))
        return sequences

    @cached_property
    def _adds_space(self) -> bool:
        """Whether the tokenizer puts a space before any text by itself, as SentencePiece's do."""
        spaced, bare = (self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" a", "a"))
        return len(spaced) > len(bare)


def check_lengths(examples: Mapping[str, Sequence[Example]], encode: ExampleTokens, context: int) -> None:
    """Raises LiteStageError for an example that the model has no positions for: no engine would ask it."""
    for stage, of_stage in examples.items():
        for example in of_stage:
            if len(f"{example.prompt}{example.completion}".encode()) + 2 <= context:  # no more tokens than that
                continue
            ((ids, _),) = encode.of_stage([example])
            if len(ids) > context:
                raise LiteStageError(
                    f"A prompt of {stage!r} and its text take {len(ids)} tokens, and the model has room for {context}; "
                    f"leave the row out ({example.prompt[:60]!r}...), or train a model with more."
                )


def check_weights(
    examples: Mapping[str, Sequence[Example]], token_weights: Sequence[TokenWeight], completion: float, earlier: float
) -> None:
    """Warns of patterns that no completion has. Raises LiteStageError where nothing but theirs would have a weight."""
    texts = [example.completion for each in examples.values() for example in each]
    found = {each.pattern: any(re.search(each.pattern, text) for text in texts) for each in token_weights}
    if not any((completion, earlier, *(each.weight for each in token_weights if found[each.pattern]))):
        raise LiteStageError(
            f"No text that is to be written has a match of token_weights ({', '.join(found)}), and nothing else has a "
            "weight; give completion_weight=1."
        )
    for pattern in (pattern for pattern, matches in found.items() if not matches):
        getLogger(__name__).warning("token_weights: no text that is to be written has a match of %r", pattern)


def check_answers(rows: Sequence[StagedRow], pipeline: Pipeline) -> None:
    """Raises LiteStageError for a row whose last text settles on another option than the row's answer."""
    for row in rows:
        said, answer = pipeline.parse_answer(row.gold), row.question.answer
        if said and answer and said != answer:
            raise LiteStageError(
                f"Row {row.question.id!r} has the answer {answer!r}, and its {pipeline.stage_names[-1]!r} says "
                f"{said!r}; correct one of them."
            )
