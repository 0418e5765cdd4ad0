"""The real small model in bfloat16 and in 8 bits, beside ``generate`` in the dtype that it is quicker in, and beside
llama.cpp in as many bits and fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from litestage.bench.llama import Llama, missing, write_gguf, write_quantised
from litestage.bench.reference import question_rows
from litestage.bench.row import Row, compared
from litestage.config import load_config
from litestage.decoder.load import read_model
from litestage.decoder.packed import why_not_int8
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.session.workbench import Workbench
from litestage.stages import Question
from litestage.trace import Trace

MODEL = "smollm2-135m-staged"
BARS = (3.5, 3.0)
"""Of a whole question and of one of many, in bfloat16."""
FORMATS = {"bfloat16": 1.5, "Q8_0": 1.5, "Q4_0": 1.0, "Q4_K_M": 1.0}
"""What llama.cpp reads weights from, each with its bar for a whole question in bfloat16."""


def real_rows(questions: int, repeats: int) -> list[Row]:
    """OpenBookQA's test questions, ``questions`` alone and four times as many together."""
    dtype = torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
    rows: list[Row] = []
    works: dict[str, Workbench] = {}
    try:
        for weights, bars in (("auto", BARS), ("int8", (None, None))):
            if weights == "int8" and why_not_int8():
                continue
            options = [f"model={MODEL}", "task=obqa", "engine.device=cpu", "engine.dtype=bfloat16"]
            work = Workbench.open(load_config([*options, f"engine.weights={weights}"]))
            rival = read_model(MODEL, dtype=dtype).model.requires_grad_(False)
            name = f"{MODEL}, {'int8' if weights == 'int8' else 'bfloat16'}"
            rows += question_rows(f"{name}; generate in {str(dtype)[6:]}", work, rival, questions, repeats, bars)
            works[name] = work
        rows += llama_rows(works, questions)
    except LiteStageError as error:
        rows.append(Row(MODEL, "whole question", "generate chain, options batched", note=f"not measured: {error}"))
    return rows


def llama_rows(works: Mapping[str, Workbench], questions: int) -> list[Row]:
    """Whole questions beside llama.cpp: it is given the prompts that ours met, and as many steps as ours took.

    Args:
        works: ours by name. The first is in bfloat16: its prompts are given, and its rows have bars.
    """
    what, against = "whole question", "llama.cpp, {}, options as parallel sequences"
    why_not = missing()
    if why_not is not None:
        return [Row(MODEL, what, against.format(kind), note=f"not measured: {why_not}") for kind in FORMATS]
    first = next(iter(works.values()))
    ours = {
        name: work.session.contestant(work.pipeline, Plan.full(work.pipeline.stage_names))
        for name, work in works.items()
    }
    taken: dict[str, list[float]] = {name: [] for name in (*works, *FORMATS)}
    failed: dict[str, str] = {}
    with ExitStack() as until_done:
        loaded = _in_formats(Path(until_done.enter_context(TemporaryDirectory())), failed)
        for llama in loaded.values():
            until_done.callback(llama.close)
        for index, question in enumerate(first.task.questions("test")[: questions + 1]):
            seconds, traces = {}, {}
            for name, contestant in ours.items():
                began = perf_counter()
                (traces[name],) = contestant.answer([question], timed=True)
                seconds[name] = perf_counter() - began
            stages = _asked(first, question, next(iter(traces.values())))
            for kind in [kind for kind in loaded if kind not in failed]:
                began = perf_counter()
                try:
                    for prompts, steps in stages:
                        loaded[kind].generate(prompts, steps)
                except LiteStageError as error:
                    failed[kind] = str(error)
                seconds[kind] = perf_counter() - began
            if index:  # the first warms up
                for name, one in seconds.items():
                    taken[name].append(one)
    return [
        Row(name, what, against.format(kind), bar=None if index else bar, note=f"not measured: {failed[kind]}")
        if kind in failed
        else compared(name, what, against.format(kind), taken[name], taken[kind], None if index else bar)
        for index, name in enumerate(works)
        for kind, bar in FORMATS.items()
    ]


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


def _asked(work: Workbench, question: Question, trace: Trace) -> list[tuple[Sequence[Sequence[int]], int]]:
    """By stage, the prompts of an answered question as token ids, and the tokens that its longest row took."""
    outputs: dict[str, Any] = {}
    found: list[tuple[Sequence[Sequence[int]], int]] = []
    for stage, done in zip(work.pipeline.stages, trace.stages, strict=True):
        found.append(([work.session.encode(prompt) for prompt in stage.prompts(question, outputs)], max(done.tokens)))
        outputs[stage.name] = list(done.texts) if stage.per_option else done.texts[0]
    return found
