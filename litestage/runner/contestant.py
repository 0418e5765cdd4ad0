"""A model, a pipeline and a plan that together answer questions; methods are compared as contestants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from litestage.engine import Decoding, Generation, Request
from litestage.engine.carry import Carry
from litestage.engine.prefix import common_prefix
from litestage.plan import Plan
from litestage.stages import Pipeline, Question, Stage
from litestage.store import ReusingEngine
from litestage.trace import StageTrace, Trace

Encode = Callable[[str], list[int]]


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
            return [trace for question in questions for trace in self._answer([question], timed=True)]
        return self._answer(questions, timed=False)

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

    def _answer(self, questions: Sequence[Question], timed: bool) -> list[Trace]:
        outputs: list[dict[str, str | list[str]]] = [{} for _ in questions]
        traces: list[list[StageTrace]] = [[] for _ in questions]
        carry, following = Carry(), [*self.pipeline.stage_names[1:], None]
        for stage, name in zip(self.pipeline.stages, following, strict=True):
            carry.following = None if name is None else self.plan[name]
            requests = [
                self._requests(stage, index, question, outputs[index]) for index, question in enumerate(questions)
            ]
            seconds: tuple[float | None, float | None] = (None, None)
            if timed:
                rows, seconds = self._timed(stage, requests[0])
                generated = [rows]
            else:
                flat = self.engine.generate(
                    [request for rows in requests for request in rows],
                    self.plan[stage.name],
                    self._decoding(stage),
                    [neighbour[stage.name] for neighbour in self.neighbours],
                    carry,
                )
                rest = iter(flat)
                generated = [[next(rest) for _ in rows] for rows in requests]
            for index, rows in enumerate(generated):
                texts = [row.text.strip() for row in rows]
                outputs[index][stage.name] = texts if stage.per_option else texts[0]
                traces[index].append(_stage_trace(stage, requests[index], rows, *seconds))
        return [self._trace(question, outputs[index], traces[index]) for index, question in enumerate(questions)]

    def _requests(
        self, stage: Stage, index: int, question: Question, outputs: dict[str, str | list[str]]
    ) -> list[Request]:
        limit = stage.limit(question)
        return [
            Request(tuple(self.encode(prompt)), limit, group=index, stream=f"{question.id}/{stage.name}/{row}")
            for row, prompt in enumerate(stage.prompts(question, outputs))
        ]

    def _timed(self, stage: Stage, requests: list[Request]) -> tuple[list[Generation], tuple[float, float]]:
        plan, decoding = self.plan[stage.name], self._decoding(stage)
        batches = [
            self.engine.engine.generate(part, plan, decoding)
            for part in ([[request] for request in requests] if _one_by_one(stage) else [requests])
        ]
        rows = [row for batch in batches for row in batch.generations]
        return rows, (sum(batch.prefill_s for batch in batches), sum(batch.decode_s for batch in batches))

    def _decoding(self, stage: Stage) -> Decoding:
        return replace(self.decoding, stop=stage.stop)

    def _trace(self, question: Question, outputs: dict[str, str | list[str]], stages: list[StageTrace]) -> Trace:
        too_long = any("too_long" in stage.stops for stage in stages)
        answer = None if too_long else self.pipeline.parse_answer(outputs)
        chosen = None
        if self.pipeline.choose == "likelihood" and not too_long and answer not in question.labels:
            chosen, seconds = self._by_likelihood(question, outputs)
            if stages[-1].prefill_s is not None:
                stages = [*stages[:-1], replace(stages[-1], prefill_s=stages[-1].prefill_s + seconds)]
        answer = chosen or answer
        correct = None if question.answer is None else answer == question.answer
        return Trace(question.id, self.plan.hash, tuple(stages), answer, correct, chosen is not None)

    def _by_likelihood(self, question: Question, outputs: dict[str, str | list[str]]) -> tuple[str | None, float]:
        """The option's letter that goes on best from the last stage's text, and the seconds that took to find out.

        From the last stage's prompt where its text leaves no room in the context; no letter where that leaves none.
        """
        last = self.pipeline.stages[-1].name
        for written in (outputs, {**outputs, last: ""}):
            answered = [self.encode(prompt) for prompt in self.pipeline.answered_by(question, written)]
            if max(map(len, answered)) <= self.engine.engine.decoder.context_length + 1:  # the last is never read
                index, seconds = self.engine.engine.choose(answered, self.plan[last])
                return question.labels[index], seconds
        return None, 0.0


def _one_by_one(stage: Stage) -> bool:
    return stage.per_option and stage.mode == "per_option_sequential"


def _stage_trace(
    stage: Stage, requests: list[Request], rows: list[Generation], prefill_s: float | None, decode_s: float | None
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
        prefill_s=prefill_s,
        decode_s=decode_s,
        confidences=confidences,
        one_by_one=_one_by_one(stage),
    )
