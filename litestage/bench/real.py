"""The real small model in bfloat16 and in 8 bits, beside ``generate`` in the dtype that it is quicker in."""

from __future__ import annotations

import torch

from litestage.bench.reference import question_rows
from litestage.bench.row import Row
from litestage.config import load_config
from litestage.decoder.load import read_model
from litestage.decoder.packed import why_not_int8
from litestage.errors import LiteStageError
from litestage.session.workbench import Workbench

MODEL = "smollm2-135m-staged"
BARS = (3.5, 3.0)
"""Of a whole question and of one of many, in bfloat16."""


def real_rows(questions: int, repeats: int) -> list[Row]:
    """OpenBookQA's test questions, ``questions`` alone and four times as many together."""
    dtype = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    rows: list[Row] = []
    try:
        for weights, bars in (("auto", BARS), ("int8", (None, None))):
            if weights == "int8" and why_not_int8():
                continue
            options = [f"model={MODEL}", "task=obqa", "engine.device=cpu", "engine.dtype=bfloat16"]
            work = Workbench.open(load_config([*options, f"engine.weights={weights}"]))
            rival = read_model(MODEL, dtype=dtype).model.requires_grad_(False)
            name = f"{MODEL}, {'int8' if weights == 'int8' else 'bfloat16'}; generate in {str(dtype)[6:]}"
            rows += question_rows(name, work, rival, questions, repeats, bars)
    except LiteStageError as error:
        rows.append(Row(MODEL, "whole question", "generate chain, options batched", note=f"not measured: {error}"))
    return rows
