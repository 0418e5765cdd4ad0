"""A model, a pipeline and a plan that together answer questions; methods are compared as contestants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from litestage.engine import Decoding, Generation, Request
from litestage.engine.carry import Carry
from litestage.engine.prefix import common_prefix
from litestage.plan import Plan
from litestage.stages import Pipeline, Question, Stage
from litestage.store import ReusingEngine
from litestage.trace import StageTrace, Trace

Encode = Callable[[str], list[int]]
NOT_MEASURED: dict[str, float | None] = {"prefill_s": None, "decode_s": None, "ttft_s": None}


@dataclass(frozen=True)
class Contestant:
    """What answers a question.

    Attributes:
        engine: the engine, with the store behind it.
        encode: a prompt's token ids, as the model expects them (special tokens, chat template).
        pipeline: the stages.
        plan: what is skipped and cut in each.
        decoding: greedy, or how to sample; stop strings come from the stages.
        neighbours: plans that mostly write the same; what the store knows of them is verified instead of decoded.
    """

    engine: ReusingEngine
    encode: Encode
    pipeline: Pipeline
    plan: Plan
    decoding: Decoding = field(default_factory=Decoding)
    neighbours: tuple[Plan, ...] = ()

    def answer(self, questions: Sequence[Question], *, timed: bool = False) -> list[Trace]:
        """Takes questions through all stages, one stage at a time.

        Args:
            timed: answer each question alone, by the clock and never from the store; else all together, reusing what
                the store holds.
        """
        if timed:
            return [self._answer_by_the_clock(question) for question in questions]
        return self._answer(questions)

    def prompts(self, question: Question, trace: Trace) -> dict[str, list[list[int]]]:
        """Token ids of every stage's prompts, as they were when the trace was made."""
        outputs: dict[str, str | list[str]] = {}
        prompts = {}
        for stage, traced in zip(self.pipeline.stages, trace.stages, strict=True):
            prompts[stage.name] = [self.encode(prompt) for prompt in stage.prompts(question, outputs)]
            outputs[stage.name] = list(traced.texts) if stage.per_option else traced.texts[0]
        return prompts

    def outputs(self, questions: Sequence[Question], traces: Sequence[Trace]) -> list[dict[str, list[tuple[int, ...]]]]:
        """By question, token ids of every stage's outputs; the store has them unless they were lost since."""
        texts: list[dict[str, str | list[str]]] = [{} for _ in questions]
        tokens: list[dict[str, list[tuple[int, ...]]]] = [{} for _ in questions]
        for index, stage in enumerate(self.pipeline.stages):
            requests = [self._requests(stage, at, question, texts[at]) for at, question in enumerate(questions)]
            flat = [request for rows in requests for request in rows]
            rest = iter(self.engine.generate(flat, self.plan[stage.name], self._decoding(stage)))
            for at, (rows, trace) in enumerate(zip(requests, traces, strict=True)):
                tokens[at][stage.name] = [next(rest).tokens for _ in rows]
                written = trace.stages[index].texts
                texts[at][stage.name] = list(written) if stage.per_option else written[0]
        return tokens

    def _answer_by_the_clock(self, question: Question) -> Trace:
        """The clock runs from the question's text to the answer; what the trace says is put together afterwards."""
        clock = self.engine.engine.clock
        outputs: dict[str, str | list[str]] = {}
        done: list[tuple[Stage, list[Request], list[Generation], dict[str, float | None]]] = []
        started = began = clock()
        for stage in self.pipeline.stages:
            requests = self._requests(stage, 0, question, outputs)
            rows, prefill_s, ttft_s = self._generated(stage, requests, began)
            outputs[stage.name] = _output(stage, rows)
            ended = clock()
            seconds = {"prefill_s": prefill_s, "decode_s": ended - began - prefill_s, "ttft_s": ttft_s}
            done.append((stage, requests, rows, NOT_MEASURED if ttft_s is None else seconds))
            began = ended
        answer = self._parsed(outputs, (row.stop for _, _, rows, _ in done for row in rows))
        latency_s = clock() - started
        stages = tuple(_stage_trace(*part) for part in done)
        return Trace(question.id, self.plan.hash, stages, answer, _correct(question, answer), latency_s)

    def _generated(
        self, stage: Stage, requests: list[Request], began: float
    ) -> tuple[list[Generation], float, float | None]:
        """A stage's rows, the seconds since it ``began`` that were prefill, and those until its first token, if any."""
        engine, plan, decoding = self.engine.engine, self.plan[stage.name], self._decoding(stage)
        rows: list[Generation] = []
        prefill_s, ttft_s = engine.clock() - began, None
        for part in [[request] for request in requests] if _one_by_one(stage) else [requests]:
            before = engine.clock() - began
            batch = engine.generate(part, plan, decoding)
            rows += batch.generations
            prefill_s += batch.prefill_s
            if ttft_s is None and any(row.tokens for row in batch.generations):
                ttft_s = before + batch.prefill_s
        return rows, prefill_s, ttft_s

    def _answer(self, questions: Sequence[Question]) -> list[Trace]:
        outputs: list[dict[str, str | list[str]]] = [{} for _ in questions]
        traces: list[list[StageTrace]] = [[] for _ in questions]
        carry, following = Carry(), [*self.pipeline.stage_names[1:], None]
        for stage, name in zip(self.pipeline.stages, following, strict=True):
            carry.following = None if name is None else self.plan[name]
            requests = [
                self._requests(stage, index, question, outputs[index]) for index, question in enumerate(questions)
            ]
            flat = self.engine.generate(
                [request for rows in requests for request in rows],
                self.plan[stage.name],
                self._decoding(stage),
                [neighbour[stage.name] for neighbour in self.neighbours],
                carry,
            )
            rest = iter(flat)
            for index, asked in enumerate(requests):
                rows = [next(rest) for _ in asked]
                outputs[index][stage.name] = _output(stage, rows)
                traces[index].append(_stage_trace(stage, asked, rows, NOT_MEASURED))
        answers = [
            self._parsed(texts, (stop for stage in stages for stop in stage.stops))
            for texts, stages in zip(outputs, traces, strict=True)
        ]
        return [
            Trace(question.id, self.plan.hash, tuple(stages), answer, _correct(question, answer))
            for question, stages, answer in zip(questions, traces, answers, strict=True)
        ]

    def _requests(
        self, stage: Stage, index: int, question: Question, outputs: dict[str, str | list[str]]
    ) -> list[Request]:
        limit = stage.limit(question)
        return [
            Request(tuple(self.encode(prompt)), limit, group=index, stream=f"{question.id}/{stage.name}/{row}")
            for row, prompt in enumerate(stage.prompts(question, outputs))
        ]

    def _decoding(self, stage: Stage) -> Decoding:
        return replace(self.decoding, stop=stage.stop)

    def _parsed(self, outputs: dict[str, str | list[str]], stops: Iterable[str]) -> str | None:
        """The answer in the last stage's text; None too where a prompt of any stage did not fit."""
        return None if "too_long" in stops else self.pipeline.parse_answer(outputs)


def _correct(question: Question, answer: str | None) -> bool | None:
    return None if question.answer is None else answer == question.answer


def _output(stage: Stage, rows: Sequence[Generation]) -> str | list[str]:
    texts = [row.text.strip() for row in rows]
    return texts if stage.per_option else texts[0]


def _one_by_one(stage: Stage) -> bool:
    return stage.per_option and stage.mode == "per_option_sequential"


def _stage_trace(
    stage: Stage, requests: list[Request], rows: list[Generation], seconds: Mapping[str, float | None]
) -> StageTrace:
    confidences = tuple(row.confidences for row in rows) if any(row.confidences for row in rows) else None
    prefixes, _ = common_prefix([request.prompt for request in requests], [0] * len(requests))
    return StageTrace(
        name=stage.name,
        prompt_tokens=tuple(row.prompt_tokens for row in rows),
        shared_tokens=len(prefixes[0]) if prefixes and len(rows) > 1 and not _one_by_one(stage) else 0,
        tokens=tuple(len(row.tokens) for row in rows),
        texts=tuple(row.text.strip() for row in rows),
        stops=tuple(row.stop for row in rows),
        **seconds,
        confidences=confidences,
        one_by_one=_one_by_one(stage),
    )
