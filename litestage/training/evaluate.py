"""Full-depth accuracy by plain ``transformers`` greedy generation, all stages chained.

Run as ``python -m litestage.training.evaluate <model folder> [variant or staged JSONL ...] [split=test] [limit=600]``;
``adapter=`` merges one first.
It shares nothing with the engine but the pipeline, so it also serves as a check on it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

from typer import Argument

from litestage.cli import run_alone
from litestage.errors import LiteStageError
from litestage.menagerie import VARIANTS, load_split
from litestage.overrides import configure
from litestage.stages import Pipeline, Stage, load_pipeline
from litestage.stages.gold import StagedRow, read_staged
from litestage.training.examples import texts_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass
class EvaluationOptions:
    """What the command line takes as ``key=value``."""

    split: str = "test"
    limit: int = 600
    pipeline: str = "recall_analyze_summarize"
    adapter: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found on one set of questions.

    Attributes:
        accuracy: share of questions with the right letter; no letter counts as wrong.
        parse_failures: share of questions without a letter.
        exact: by stage with gold texts, the share of its texts that equal them.
        longest: by stage, the most tokens in one text, end of text included.
    """

    n: int
    accuracy: float
    parse_failures: float
    exact: dict[str, float]
    longest: dict[str, int]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[StagedRow],
    pipeline: Pipeline,
    batch_size: int = 128,
) -> Evaluation:
    """Answers every question stage by stage with greedy decoding at full depth."""
    from litestage.bench.rivals import answer

    longest: dict[str, int] = {}

    def write(stage: Stage, prompts: Sequence[str], limit: int) -> list[str]:
        texts, longest[stage.name] = _generate(model, tokenizer, prompts, limit, batch_size)
        return [text.strip() for text in texts]

    outputs = answer(write, pipeline, [row.question for row in rows])
    exact = {
        stage: fmean(
            text == wanted
            for row, output in zip(rows, outputs, strict=True)
            for text, wanted in zip(texts_of(output[stage]), texts_of(row.gold[stage]), strict=True)
        )
        for stage in pipeline.stage_names
        if all(stage in row.gold for row in rows)
    }
    answers = [pipeline.parse_answer(output) for output in outputs]
    right = sum(answer == row.question.answer for answer, row in zip(answers, rows, strict=True))
    return Evaluation(len(rows), right / len(rows), answers.count(None) / len(rows), exact, longest)


def _generate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], limit: int, batch_size: int
) -> tuple[list[str], int]:
    """The continuations, in the order of the prompts, and the most tokens any of them took."""
    from litestage.bench.rivals import generate

    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    longest, texts = 0, dict[int, str]()
    by_length = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    for start in range(0, len(encoded), batch_size):
        indices = by_length[start : start + batch_size]
        written = generate(model, [encoded[index] for index in indices], limit, pad)
        longest = max(longest, len(written[0]))
        texts.update(zip(indices, tokenizer.batch_decode(written, skip_special_tokens=True), strict=True))
    return [texts[index] for index in range(len(prompts))], longest


def main(
    model: Annotated[str, Argument(help="The folder of a model, for example litestage/reference/full.")],
    words: Annotated[list[str] | None, Argument(metavar="[VARIANT OR JSONL]... [KEY=VALUE]...")] = None,
) -> None:
    """Prints one JSON line per variant or file."""
    options = configure(EvaluationOptions, [], [word for word in words or () if "=" in word])
    if options.limit < 1:
        raise LiteStageError(f"limit is {options.limit}; give at least 1.")
    sources = [word for word in words or () if "=" not in word] or VARIANTS
    data = {source: _rows(source, options.split)[: options.limit] for source in sources}
    pipeline = load_pipeline(options.pipeline)
    import torch

    from litestage.decoder.load import read_model

    read = read_model(model, adapter=options.adapter, dtype=torch.float32)
    for source, rows in data.items():
        print(json.dumps({"data": source, **asdict(evaluate(read.model, read.tokenizer, rows, pipeline))}), flush=True)


def _rows(source: str, split: str) -> list[StagedRow]:
    return read_staged(source) if source.endswith(".jsonl") else load_split(source, split)


if __name__ == "__main__":
    run_alone(main)
