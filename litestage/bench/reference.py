"""Whole questions one at a time, and questions per second, on a model's own prompts: of the embedded model here."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

from litestage.bench.rivals import answer, by_generate, by_harness
from litestage.bench.row import Row, compared, seconds_of, take_turns
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
    rival = copy.deepcopy(work.session.loaded.model)
    rows = question_rows("reference", work, rival, questions, repeats, {"full": 4.0}, 3.0)
    return [*rows, _new_mask(work.session)]


def question_rows(
    name: str,
    work: Workbench,
    model: Any,
    questions: int,
    repeats: int,
    alone: Mapping[str, float | None],
    together: float | None,
) -> list[Row]:
    """Test questions, alone and four times as many together, beside a ``generate`` chain of ``model``.

    Args:
        alone: the plans, as shorthands, that whole questions are answered under, each with its bar.
        together: the bar of questions together, at full depth.
    """
    session, pipeline, tokenizer = work.session, work.pipeline, work.session.loaded.tokenizer
    asked = work.task.questions("test")[: 4 * questions]
    contestants = {spec: session.contestant(pipeline, work.plan(spec)) for spec in alone}

    by_question = by_generate(model, tokenizer, session.encode)
    ours: dict[str, list[float]] = {spec: [] for spec in alone}
    theirs: list[float] = []
    same = dict.fromkeys(alone, 0)
    for index, question in enumerate(asked[: questions + 1]):
        began = perf_counter()
        outputs = answer(by_question, pipeline, [question])[0]
        theirs.append(perf_counter() - began)
        for spec, contestant in contestants.items():
            began = perf_counter()
            (trace,) = contestant.answer([question], timed=True)
            ours[spec].append(perf_counter() - began)
            texts = {stage.name: list(stage.texts) for stage in trace.stages}
            equal = all(texts[name] == ([said] if isinstance(said, str) else said) for name, said in outputs.items())
            same[spec] += equal and index > 0
    rows = [
        compared(
            name,
            whole_question(spec),
            "generate chain, options batched",
            *(ours[spec][1:], theirs[1:]),  # the first warms up
            bar,
            f"the same texts in {same[spec]} of {questions} questions",
        )
        for spec, bar in alone.items()
    ]

    def all_together() -> None:
        fresh = ReusingEngine(session.engine, session.loaded.fingerprint, ResultStore())
        full = session.contestant(pipeline, Plan.full(pipeline.stage_names))
        replace(full, engine=fresh, neighbours=()).answer(asked)

    writers = {size: by_generate(model, tokenizer, session.encode, size) for size in BATCH_SIZES}
    tried = take_turns({str(size): partial(answer, write, pipeline, asked) for size, write in writers.items()}, 1)
    best = min(BATCH_SIZES, key=lambda size: tried[str(size)])
    runs: dict[str, Callable[[], Any]] = {
        "ours": all_together,
        "generate": partial(answer, writers[best], pipeline, asked),
        "lm-eval's hf": partial(answer, by_harness(model, tokenizer, best), pipeline, asked),
    }
    seconds = {who: [value / len(asked) for value in values] for who, values in take_turns(runs, repeats).items()}
    note = "what two stages' prompts have in common is prefilled once; not so in a whole question, by the clock"
    rows += [
        compared(name, "a question of many", f"{who}, {best} rows a batch", seconds["ours"], seconds[who], bar, note)
        for who, bar in (("generate", together), ("lm-eval's hf", None))
    ]
    return rows


def whole_question(spec: str) -> str:
    """What a whole question under a plan is called in the table."""
    return "whole question" if spec == "full" else f"whole question, {spec}"


def _new_mask(session: Session) -> Row:
    """The first generation under a skip set beside the next under the same."""
    request = [Request(tuple(range(5, 45)), 8)]
    first: list[float] = []
    again: list[float] = []
    for layer in range(session.engine.decoder.layers):
        plan = StagePlan(SkipSet(mhsa=(layer,), ffn=(layer,)))
        for seconds in (first, again):
            seconds.append(seconds_of(partial(session.engine.generate, request, plan, Decoding())))
    return compared("reference", "8 tokens under a new mask", "the same mask again", first, again)
