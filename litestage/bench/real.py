"""The real small model in bfloat16 and in 8 bits, beside ``generate`` in the dtype that it is quicker in, and beside
llama.cpp in as many bits and fewer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from litestage.bench.llama import Llama, missing, write_gguf, write_quantised
from litestage.bench.reference import question_rows, whole_question
from litestage.bench.row import Row, compared
from litestage.config import load_config
from litestage.decoder.load import read_model
from litestage.decoder.packed import why_not_int8
from litestage.errors import LiteStageError
from litestage.session.workbench import Workbench
from litestage.trace import Trace

MODEL = "smollm2-135m-staged"
DRAFTED = "full+prefix+lookup"
"""What computes full depth's text another way."""
ALONE: dict[str, float | None] = {"full": 3.5, DRAFTED: 7.0}
TOGETHER = 3.0
"""Bars in bfloat16, of whole questions under these plans and of one of many."""
FORMATS = {"bfloat16": 1.5, "Q8_0": 1.5, "Q4_0": 1.0, "Q4_K_M": 1.0}
"""What llama.cpp reads weights from, each with its bar for a whole question in bfloat16."""


def real_rows(questions: int, repeats: int) -> list[Row]:
    """OpenBookQA's test questions, ``questions`` alone and four times as many together."""
    dtype = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    rows: list[Row] = []
    works: dict[str, Workbench] = {}
    options = [f"model={MODEL}", "task=obqa", "engine.device=cpu", "engine.dtype=bfloat16"]
    options += ["search.calibration=64", "search.confirm=0"]  # what drafts are looked up in
    try:
        for weights, kind in (("auto", "bfloat16"), ("int8", "int8")):
            if weights == "int8" and why_not_int8():
                continue
            work = works[f"{MODEL}, {kind}"] = Workbench.open(load_config([*options, f"engine.weights={weights}"]))
            rival = read_model(MODEL, dtype=dtype).model.requires_grad_(False)
            barred = weights == "auto"
            rows += question_rows(
                f"{MODEL}, {kind}; generate in {str(dtype)[6:]}",
                *(work, rival, questions, repeats),
                ALONE if barred else dict.fromkeys(ALONE),
                TOGETHER if barred else None,
            )
        rows += llama_rows(works, questions)
    except LiteStageError as error:
        rows.append(Row(MODEL, "whole question", "generate chain, options batched", note=f"not measured: {error}"))
    return rows


def llama_rows(works: Mapping[str, Workbench], questions: int) -> list[Row]:
    """Whole questions beside llama.cpp: it is given the prompts that ours met at full depth, and as many steps as ours
    took there.

    Args:
        works: ours by name. The first is in bfloat16: its prompts are given, and its rows have bars.
    """
    against = "llama.cpp, {}, options as parallel sequences"
    why_not = missing()
    if why_not is not None:
        return [Row(MODEL, "whole question", against.format(kind), note=f"not measured: {why_not}") for kind in FORMATS]
    first = next(iter(works))
    ours = {
        (name, spec): work.session.contestant(work.pipeline, work.plan(spec))
        for name, work in works.items()
        for spec in ALONE
    }
    taken: dict[Any, list[float]] = {name: [] for name in (*ours, *FORMATS)}
    failed: dict[str, str] = {}
    with ExitStack() as until_done:
        loaded = _in_formats(Path(until_done.enter_context(TemporaryDirectory())), failed)
        for llama in loaded.values():
            until_done.callback(llama.close)
        for index, question in enumerate(works[first].task.questions("test")[: questions + 1]):
            seconds: dict[Any, float] = {}
            traces: dict[Any, Trace] = {}
            for mine, contestant in ours.items():
                began = perf_counter()
                (traces[mine],) = contestant.answer([question], timed=True)
                seconds[mine] = perf_counter() - began
            trace = traces[first, "full"]
            asked = ours[first, "full"].prompts(question, trace)
            for kind in [kind for kind in loaded if kind not in failed]:
                began = perf_counter()
                try:
                    for stage in trace.stages:
                        loaded[kind].generate(asked[stage.name], max(stage.tokens))
                except LiteStageError as error:
                    failed[kind] = str(error)
                seconds[kind] = perf_counter() - began
            if index:  # the first warms up
                for who, one in seconds.items():
                    taken[who].append(one)
    rows = []
    for name, spec in ours:
        for kind, bar in FORMATS.items():
            about = name, whole_question(spec), against.format(kind)
            bar_here = bar if name == first else None
            if kind in failed:
                rows.append(Row(*about, bar=bar_here, note=f"not measured: {failed[kind]}"))
            else:
                rows.append(compared(*about, taken[name, spec], taken[kind], bar_here))
    return rows


def _in_formats(folder: Path, failed: dict[str, str]) -> dict[str, Llama]:
    """The model in llama.cpp, by the format of its weights; what could not be had goes to ``failed``, with why."""
    model = read_model(MODEL, dtype=torch.bfloat16).model
    whole = folder / "bfloat16.gguf"
    write_gguf(model, whole)
    loaded = {}
    for kind in FORMATS:
        path = folder / f"{kind}.gguf"
        try:
            if path != whole:
                write_quantised(whole, kind, path)
            loaded[kind] = Llama(path, model.config.vocab_size)
        except LiteStageError as error:
            failed[kind] = str(error)
    return loaded
