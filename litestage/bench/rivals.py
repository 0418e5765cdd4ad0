"""What people would run instead, stage after stage, options and questions in one batch: ``transformers`` generate, and
lm-eval's own ``--model hf`` over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from litestage.stages import Pipeline, Question, Stage

Encode = Callable[[str], list[int]]
Rows = list[tuple[int, ...]]
Write = Callable[[Stage, Sequence[str], int], list[str]]
"""A stage's texts after its prompts, of at most so many tokens each."""


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


def by_generate(model: Any, tokenizer: Any, encode: Encode, batch_size: int | None = None) -> Write:
    """Writes by ``generate``, at most ``batch_size`` rows (None: all) together."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def write(stage: Stage, prompts: Sequence[str], limit: int) -> list[str]:
        options = {"stop_strings": list(stage.stop), "tokenizer": tokenizer} if stage.stop else {}
        encoded, size = [encode(prompt) for prompt in prompts], batch_size or len(prompts)
        return [
            tokenizer.decode(row, skip_special_tokens=True).strip()
            for start in range(0, len(encoded), size)
            for row in generate(model, encoded[start : start + size], limit, pad, **options)
        ]

    return write


def by_harness(model: Any, tokenizer: Any, batch_size: int) -> Write:
    """Writes as lm-eval's own ``--model hf`` does, ``batch_size`` rows together."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=batch_size)

    def write(stage: Stage, prompts: Sequence[str], limit: int) -> list[str]:
        options = {"until": list(stage.stop), "max_gen_toks": limit, "do_sample": False}
        requests = [Instance("generate_until", {}, (prompt, options), index) for index, prompt in enumerate(prompts)]
        return [text.strip() for text in harness.generate_until(requests, disable_tqdm=True)]

    return write


def answer(write: Write, pipeline: Pipeline, questions: Sequence[Question]) -> list[dict[str, str | list[str]]]:
    """Every question's outputs by stage; the prompts of a stage of all questions are written to together."""
    outputs: list[dict[str, str | list[str]]] = [{} for _ in questions]
    for stage in pipeline.stages:
        prompts = [stage.prompts(question, output) for question, output in zip(questions, outputs, strict=True)]
        limit = max(stage.limit(question) for question in questions)
        texts = iter(write(stage, [prompt for of_question in prompts for prompt in of_question], limit))
        for output, of_question in zip(outputs, prompts, strict=True):
            rows = [next(texts) for _ in of_question]
            output[stage.name] = rows if stage.per_option else rows[0]
    return outputs
