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
            going = [index for index, before in enumerate(traces) if not _broken(before)]
            generated = {index: [_nothing(request) for request in rows] for index, rows in enumerate(requests)}
            if timed:
                seconds = (0.0, 0.0)
                if going:
                    generated[0], seconds = self._timed(stage, requests[0])
            elif going:
                flat = self.engine.generate(
                    [request for index in going for request in requests[index]],
                    self.plan[stage.name],
                    self._decoding(stage),
                    [neighbour[stage.name] for neighbour in self.neighbours],
                    carry,
                )
                rest = iter(flat)
                generated |= {index: [next(rest) for _ in requests[index]] for index in going}
            for index, rows in generated.items():
                texts = [row.text.strip() for row in rows]
                outputs[index][stage.name] = texts if stage.per_option else texts[0]
                traces[index].append(_stage_trace(stage, requests[index], rows, *seconds))
        return [self._trace(question, outputs[index], tuple(traces[index])) for index, question in enumerate(questions)]

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

    def _trace(self, question: Question, outputs: dict[str, str | list[str]], stages: tuple[StageTrace, ...]) -> Trace:
        unfinished = any(stop in ("too_long", "non_finite") for stage in stages for stop in stage.stops)
        answer = None if unfinished else self.pipeline.parse_answer(outputs)
        correct = None if question.answer is None else answer == question.answer
        return Trace(question.id, self.plan.hash, stages, answer, correct)


def _broken(stages: Sequence[StageTrace]) -> bool:
    """Whether a stage so far met logits that are no numbers: its text is no prompt for the next."""
    return any("non_finite" in stage.stops for stage in stages)


def _nothing(request: Request) -> Generation:
    """What stands for a generation after one that broke."""
    return Generation(tokens=(), text="", stop="non_finite", prompt_tokens=len(request.prompt))


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
        token_ids=tuple(row.tokens for row in rows),
    )
