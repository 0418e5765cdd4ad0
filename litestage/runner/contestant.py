"""A model, a pipeline and a plan that answer questions together, and the clock that a question is timed by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from litestage.engine import Decoding, Generation, PrefixCache, Request, common_prefix
from litestage.errors import LiteStageError
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

    def why_not_answered(self, trace: Trace) -> str:
        """A sentence where a prompt did not fit the context or logits were no numbers, else nothing."""
        decoder = self.engine.engine.decoder
        if trace.too_long:
            stage = next(stage for stage in trace.stages if "too_long" in stage.stops)
            return (
                f"The prompt of stage {stage.name!r} has {max(stage.prompt_tokens)} tokens, and the model's context "
                f"holds {decoder.context_length}; shorten the question or its options."
            )
        if trace.non_finite:
            return f"The model's logits are not finite ({decoder.dtype}), so there is no answer; use dtype=float32."
        return ""

    def prompts(self, question: Question, trace: Trace) -> dict[str, list[list[int]]]:
        """Token ids of every stage's prompts, as they were when the trace was made."""
        outputs: dict[str, str | list[str]] = {}
        prompts = {}
        for stage, traced in zip(self.pipeline.stages, trace.stages, strict=True):
            prompts[stage.name] = [self.encode(prompt) for prompt in stage.prompts(question, outputs)]
            outputs[stage.name] = _output(stage, traced.texts)
        return prompts

    def sequences(
        self, questions: Sequence[Question], traces: Sequence[Trace]
    ) -> dict[str, list[tuple[Sequence[int], Sequence[int]]]]:
        """By stage, the token ids of every prompt that was met on the questions, and of what was written after it."""
        sequences = {name: list[tuple[Sequence[int], Sequence[int]]]() for name in self.pipeline.stage_names}
        for question, trace in zip(questions, traces, strict=True):
            prompts = self.prompts(question, trace)
            for stage in trace.stages:
                sequences[stage.name] += zip(prompts[stage.name], stage.token_ids, strict=True)
        return sequences

    def _answer_by_the_clock(self, question: Question) -> Trace:
        """The clock runs from the question's text to the answer; what the trace says is put together afterwards."""
        clock = self.engine.engine.clock
        outputs: dict[str, str | list[str]] = {}
        done: list[tuple[Stage, list[Request], list[Generation], dict[str, float | None]]] = []
        prefixes = PrefixCache() if self.plan.prefix_cache else None
        started = began = clock()
        for stage, following in zip(self.pipeline.stages, [*self.pipeline.stages[1:], None], strict=True):
            requests = self._requests(stage, 0, question, outputs)
            if any(_broken(rows) for _, _, rows, _ in done):
                rows, prefill_s, ttft_s = _nothing(requests), 0.0, None
            else:
                rows, prefill_s, ttft_s = self._generated(stage, requests, began, prefixes, following)
            outputs[stage.name] = _output(stage, (row.text for row in rows))
            ended = clock()
            seconds = {"prefill_s": prefill_s, "decode_s": ended - began - prefill_s, "ttft_s": ttft_s}
            done.append((stage, requests, rows, NOT_MEASURED if ttft_s is None else seconds))
            began = ended
        answer, by = self._answered(question, outputs, (row.stop for _, _, rows, _ in done for row in rows))
        latency_s = clock() - started
        stages = tuple(_stage_trace(*part) for part in done)
        return Trace(question.id, self.plan.hash, stages, answer, _correct(question, answer), latency_s, by)

    def _generated(
        self,
        stage: Stage,
        requests: list[Request],
        began: float,
        prefixes: PrefixCache | None,
        following: Stage | None,
    ) -> tuple[list[Generation], float, float | None]:
        """A stage's rows, the seconds since it ``began`` that were prefill, and those until its first token, if any.

        What the stage before left in ``prefixes`` is used, and what this one leaves to the ``following`` goes there.
        """
        engine, plan, decoding = self.engine.engine, self.plan[stage.name], self._decoding(stage)
        rows: list[Generation] = []
        prefill_s, ttft_s = engine.clock() - began, None
        parts = [[request] for request in requests] if _one_by_one(stage) else [requests]
        for number, part in enumerate(parts, 1):
            before = engine.clock() - began
            if prefixes is not None:
                last = number == len(parts)
                prefixes.following = plan if not last else self.plan[following.name] if following else None
            batch = engine.generate(part, plan, decoding, prefixes=prefixes)
            rows += batch.generations
            prefill_s += batch.prefill_s
            if ttft_s is None and any(row.tokens for row in batch.generations):
                ttft_s = before + batch.prefill_s
        return rows, prefill_s, ttft_s

    def _answer(self, questions: Sequence[Question]) -> list[Trace]:
        outputs: list[dict[str, str | list[str]]] = [{} for _ in questions]
        traces: list[list[StageTrace]] = [[] for _ in questions]
        broken: set[int] = set()
        prefixes, following = PrefixCache(), [*self.pipeline.stage_names[1:], None]
        for stage, name in zip(self.pipeline.stages, following, strict=True):
            prefixes.following = None if name is None else self.plan[name]
            requests = [
                self._requests(stage, index, question, outputs[index]) for index, question in enumerate(questions)
            ]
            going = [request for index, rows in enumerate(requests) if index not in broken for request in rows]
            neighbours = [neighbour[stage.name] for neighbour in self.neighbours]
            flat = self.engine.generate(going, self.plan[stage.name], self._decoding(stage), neighbours, prefixes)
            rest = iter(flat)
            for index, asked in enumerate(requests):
                rows = _nothing(asked) if index in broken else [next(rest) for _ in asked]
                if _broken(rows):
                    broken.add(index)
                outputs[index][stage.name] = _output(stage, (row.text for row in rows))
                traces[index].append(_stage_trace(stage, asked, rows, NOT_MEASURED))
        answers = [
            self._answered(question, texts, (stop for stage in stages for stop in stage.stops))
            for question, texts, stages in zip(questions, outputs, traces, strict=True)
        ]
        return [
            Trace(question.id, self.plan.hash, tuple(stages), answer, _correct(question, answer), None, by)
            for question, stages, (answer, by) in zip(questions, traces, answers, strict=True)
        ]

    def _requests(
        self, stage: Stage, index: int, question: Question, outputs: dict[str, str | list[str]]
    ) -> list[Request]:
        limit, prompts = stage.limit(question), [tuple(self.encode(each)) for each in stage.prompts(question, outputs)]
        if () in prompts:
            raise LiteStageError(
                f"The prompt of stage {stage.name!r} is empty for question {question.id!r}, so there is no token to go "
                "on from; begin it with some text of its own."
            )
        return [
            Request(prompt, limit, group=index, stream=f"{question.id}/{stage.name}/{row}")
            for row, prompt in enumerate(prompts)
        ]

    def _decoding(self, stage: Stage) -> Decoding:
        return replace(self.decoding, stop=stage.stop)

    def _answered(
        self, question: Question, outputs: dict[str, str | list[str]], stops: Iterable[str]
    ) -> tuple[str | None, bool]:
        """The option's letter, and whether it was chosen by likelihood because the last stage's text named none.

        There is none where any stage's prompt did not fit, or a text broke off.
        """
        if {"too_long", "non_finite"} & set(stops):
            return None, False
        answer = self.pipeline.parse_answer(outputs)
        if answer in question.labels:
            return answer, False
        chosen = self._by_likelihood(question, outputs) if self.pipeline.choose == "likelihood" else None
        return chosen, chosen is not None

    def _by_likelihood(self, question: Question, outputs: dict[str, str | list[str]]) -> str | None:
        """The option's letter that goes on best from the last stage's text.

        From the last stage's prompt where its text leaves no room in the context; no letter where that leaves none, or
        where its logits are no numbers.
        """
        last = self.pipeline.stages[-1].name
        for written in (outputs, {**outputs, last: ""}):
            answered = [self.encode(prompt) for prompt in self.pipeline.answered_by(question, written)]
            if max(map(len, answered)) <= self.engine.engine.decoder.context_length + 1:  # the last is never read
                index = self.engine.engine.choose(answered, self.plan[last])
                return None if index is None else question.labels[index]
        return None


def _correct(question: Question, answer: str | None) -> bool | None:
    return None if question.answer is None else answer == question.answer


def _output(stage: Stage, texts: Iterable[str]) -> str | list[str]:
    """What later stages are given of it: all options' texts, or the only one."""
    stripped = [text.strip() for text in texts]
    return stripped if stage.per_option else stripped[0]


def _broken(rows: Iterable[Generation]) -> bool:
    """Whether a row met logits that are no numbers: its text is no prompt for the next stage."""
    return any(row.stop == "non_finite" for row in rows)


def _nothing(requests: Iterable[Request]) -> list[Generation]:
    """What stands for the generations of a stage after one that broke."""
    return [Generation((), "", "non_finite", prompt_tokens=len(request.prompt)) for request in requests]


def _one_by_one(stage: Stage) -> bool:
    return stage.per_option and stage.mode == "per_option_sequential"


def _stage_trace(
    stage: Stage, requests: list[Request], rows: list[Generation], seconds: Mapping[str, float | None]
) -> StageTrace:
    confidences = tuple(row.confidences for row in rows) if any(row.confidences for row in rows) else None
    shared = common_prefix([request.prompt for request in requests]) if len(rows) > 1 and not _one_by_one(stage) else ()
    return StageTrace(
        name=stage.name,
        prompt_tokens=tuple(row.prompt_tokens for row in rows),
        shared_tokens=len(shared),
        tokens=tuple(len(row.tokens) for row in rows),
        texts=tuple(row.text.strip() for row in rows),
        stops=tuple(row.stop for row in rows),
        **seconds,
        confidences=confidences,
        one_by_one=_one_by_one(stage),
        token_ids=tuple(row.tokens for row in rows),
        guessed=sum(row.guessed for row in rows),
        accepted=sum(row.accepted for row in rows),
        signals=tuple(row.signals for row in rows) if any(row.signals for row in rows) else (),
        reused_tokens=tuple(row.reused for row in rows) if any(row.reused for row in rows) else (),
    )
