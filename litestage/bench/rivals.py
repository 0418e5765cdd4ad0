"""What people would run instead: ``transformers`` generate, stage after stage, options and questions in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from litestage.stages import Pipeline, Question

Encode = Callable[[str], list[int]]
Rows = list[tuple[int, ...]]


def generate(model: Any, prompts: Sequence[Sequence[int]], limit: int, pad: int, **options: Any) -> Rows:
    """New tokens of each prompt, greedy, padded on the left and run as one batch; ends are kept, padding is not cut."""
    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    with torch.inference_mode():
        whole = model.generate(
            ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, pad_token_id=pad, **options
        )
    return [tuple(row) for row in whole[:, longest:].tolist()]


def answer(
    model: Any,
    tokenizer: Any,
    encode: Encode,
    pipeline: Pipeline,
    questions: Sequence[Question],
    batch_size: int | None = None,
) -> list[dict[str, str | list[str]]]:
    """Every question's outputs by stage: at most ``batch_size`` rows (None: all) go together."""
    outputs: list[dict[str, str | list[str]]] = [{} for _ in questions]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for stage in pipeline.stages:
        prompts = [
            [encode(prompt) for prompt in stage.prompts(question, output)]
            for question, output in zip(questions, outputs, strict=True)
        ]
        flat = [prompt for of_question in prompts for prompt in of_question]
        options = {"stop_strings": list(stage.stop), "tokenizer": tokenizer} if stage.stop else {}
        limit = max(stage.limit(question) for question in questions)
        size = batch_size or len(flat)
        texts = [
            tokenizer.decode(row, skip_special_tokens=True).strip()
            for start in range(0, len(flat), size)
            for row in generate(model, flat[start : start + size], limit, pad, **options)
        ]
        rest = iter(texts)
        for output, of_question in zip(outputs, prompts, strict=True):
            rows = [next(rest) for _ in of_question]
            output[stage.name] = rows if stage.per_option else rows[0]
    return outputs
