"""Whole questions one at a time, and questions per second, on a model's own prompts: of the embedded model here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

from litestage.bench.rivals import answer, by_generate, by_harness
from litestage.bench.row import Row, compared, take_turns
from litestage.config import load_config
from litestage.engine import Decoding, Request
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.store import ResultStore, ReusingEngine

BATCH_SIZES = (16, 64, 256)
"""Rows in a batch of generate; the best counts."""


def reference_rows(questions: int, repeats: int) -> list[Row]:
    """Against a ``generate`` chain in float32, the same texts; ``questions`` alone and four times as many together."""
    work = Workbench.open(load_config(["engine=cpu"]))
    rows = question_rows("reference", work, copy.deepcopy(work.session.loaded.model), questions, repeats, (2.5, 2.0))
    return [*rows, _new_mask(work.session)]


def question_rows(
    name: str, work: Workbench, model: Any, questions: int, repeats: int, bars: tuple[float | None, float | None]
) -> list[Row]:
    """Test questions, alone and four times as many together, beside a ``generate`` chain of ``model``.

    Args:
        bars: of the two rows.
    """
    session, pipeline, tokenizer = work.session, work.pipeline, work.session.loaded.tokenizer
    asked = work.task.questions("test")[: 4 * questions]
    full = session.contestant(pipeline, Plan.full(pipeline.stage_names))

    by_question = by_generate(model, tokenizer, session.encode)
    ours: list[float] = []
    theirs: list[float] = []
    same = 0
    for index, question in enumerate(asked[: questions + 1]):
        began = perf_counter()
        outputs = answer(by_question, pipeline, [question])[0]
        between = perf_counter()
        (trace,) = full.answer([question], timed=True)
        ended = perf_counter()
        if index:  # the first warms up
            theirs.append(between - began)
            ours.append(ended - between)
            texts = {stage.name: list(stage.texts) for stage in trace.stages}
            same += all(texts[name] == ([said] if isinstance(said, str) else said) for name, said in outputs.items())
    note = f"the same texts in {same} of {questions} questions"
    rows = [compared(name, "whole question", "generate chain, options batched", ours, theirs, bars[0], note)]

    def together() -> None:
        fresh = ReusingEngine(session.engine, session.loaded.fingerprint, ResultStore())
        replace(full, engine=fresh, neighbours=()).answer(asked)

    writers = {size: by_generate(model, tokenizer, session.encode, size) for size in BATCH_SIZES}
    tried = take_turns({str(size): partial(answer, write, pipeline, asked) for size, write in writers.items()}, 1)
    best = min(BATCH_SIZES, key=lambda size: tried[str(size)])
    runs: dict[str, Callable[[], Any]] = {
        "ours": together,
        "generate": partial(answer, writers[best], pipeline, asked),
        "lm-eval's hf": partial(answer, by_harness(model, tokenizer, best), pipeline, asked),
    }
    seconds = {who: [value / len(asked) for value in values] for who, values in take_turns(runs, repeats).items()}
    note = "what two stages' prompts have in common is prefilled once; not so in a whole question, by the clock"
    rows += [
        compared(name, "a question of many", f"{who}, {best} rows a batch", seconds["ours"], seconds[who], bar, note)
        for who, bar in (("generate", bars[1]), ("lm-eval's hf", None))
    ]
    return rows


def _new_mask(session: Session) -> Row:
    """The first generation under a skip set beside the next under the same."""
    request = [Request(tuple(range(5, 45)), 8)]
    first: list[float] = []
    again: list[float] = []
    for layer in range(session.engine.decoder.layers):
        plan = StagePlan(SkipSet(mhsa=(layer,), ffn=(layer,)))
        for seconds in (first, again):
            began = perf_counter()
            session.engine.generate(request, plan, Decoding())
            seconds.append(perf_counter() - began)
    return compared("reference", "8 tokens under a new mask", "the same mask again", first, again)
