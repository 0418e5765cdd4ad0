"""Answers lm-eval's requests for staged tasks: groups them, makes the plan, runs the questions through the stages."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from logging import getLogger
from typing import Any

import torch

from litestage.data import load_task
from litestage.decoder.generation import without_effect
from litestage.engine import Decoding
from litestage.errors import LiteStageError, did_you_mean
from litestage.harness.arguments import ModelArguments
from litestage.harness.task import KEY, Answered, answered, asked_of, question_of
from litestage.plan import Plan
from litestage.reading import whole
from litestage.session import Session
from litestage.stages import Pipeline, Question
from litestage.store.journal import until_written

CHOOSING = ("do_sample", "temperature", "top_k", "top_p", "seed")
"""The generation keywords that :func:`decoding_of` reads."""

_COLDEST = 1e-30  # logits divided by less are no numbers
_YES_OR_NO = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def refuse_unused(keywords: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises LiteStageError for the first generation keyword that would change the texts, but is not applied."""
    for key, value in keywords.items():
        if key not in known and not without_effect(key, value):
            raise LiteStageError(f"The generation keyword {key!r} has no use {where}; {did_you_mean(key, known)}")


def decoding_of(keywords: Mapping[str, Any]) -> Decoding:
    """How a task's ``generation_kwargs`` ask for tokens to be chosen; greedy unless they sample.

    Without a ``seed`` among them it is torch's, which lm-eval sets to what ``--seed`` gives.

    Raises:
        LiteStageError: sampling at a temperature of 0, or next to it, or a value that is no number or out of range.
    """
    if not _samples(keywords):
        return Decoding()
    temperature = _number(keywords, "temperature", 1.0)
    if temperature < _COLDEST:
        raise LiteStageError(
            f"temperature is {temperature}, at which nothing is drawn; give one above {_COLDEST}, or do_sample=false."
        )
    return Decoding(
        temperature=temperature,
        top_k=whole(keywords.get("top_k", 0), "top_k"),
        top_p=_number(keywords, "top_p", 1.0, most=1.0),
        seed=whole(keywords.get("seed", torch.initial_seed()), "seed"),
    )


def _repeats(questions: Sequence[Question]) -> list[int]:
    """How often each question stood in the list before: lm-eval's ``repeats`` are the same document again.

    Raises:
        LiteStageError: two different ones have one id, as what lm-eval's ``process_docs`` made of one may.
    """
    before: dict[str, list[Question]] = {}
    numbers = []
    for question in questions:
        same = before.setdefault(question.id, [])
        if same and same[0] != question:
            raise LiteStageError(f"Two different questions have the id {question.id!r}; give each its own.")
        numbers.append(len(same))
        same.append(question)
    return numbers


def _samples(keywords: Mapping[str, Any]) -> bool:
    asked = keywords.get("do_sample")
    sample = _number(keywords, "temperature", 0.0) > 0 if asked is None else _YES_OR_NO.get(str(asked).lower())
    if sample is None:
        raise LiteStageError(f"do_sample is {asked!r:.80}; it is true or false.")
    said = [key for key in ("temperature", "top_k", "top_p") if keywords.get(key)]
    unused = [f"{key} is {keywords[key]}" for key in said if key == "temperature" or keywords[key] != 1]
    if unused and not sample:
        getLogger("lm_eval.litestage").warning(
            "%s, but do_sample is %s: decoding is greedy; give do_sample=true to sample.",
            ", ".join(unused),
            "not given" if asked is None else asked,
        )
    return sample


def _number(keywords: Mapping[str, Any], name: str, default: float, most: float = sys.float_info.max) -> float:
    value = keywords.get(name, default)
    number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= most:
        raise LiteStageError(f"{name} is {value!r:.80}; give a number from 0{f' to {most:g}' if most == 1 else ''}.")
    return float(number)


@dataclass
class StagedRequests:
    """Runs staged requests in one session and remembers under which plans.

    Attributes:
        plans: per task that was answered last, the pipeline and the plan.
    """

    session: Session
    arguments: ModelArguments
    plans: dict[str, tuple[Pipeline, Plan]] = field(default_factory=dict)

    def answer(self, requests: list[Any]) -> list[Answered]:
        """One response per lm-eval ``Instance``, in order."""
        groups: dict[tuple[str, str], list[int]] = {}  # by task: another over the same questions is no repeat of them
        for index, request in enumerate(requests):
            keywords = json.dumps(request.arguments[1], sort_keys=True)
            groups.setdefault((request.task_name, keywords), []).append(index)
        responses: dict[int, Answered] = {}
        self.plans = {}
        with until_written(self.session.reusing.store):
            for (_, keywords), indices in groups.items():
                texts = self._answer_group(json.loads(keywords), [requests[index].doc for index in indices])
                responses |= dict(zip(indices, texts, strict=True))
        return [responses[index] for index in range(len(requests))]

    def _answer_group(self, keywords: dict[str, Any], docs: list[dict[str, Any]]) -> list[Answered]:
        request = asked_of(keywords)
        refuse_unused(keywords, (KEY, "until", *CHOOSING), "in stages")
        if keywords.get("until"):
            raise LiteStageError(
                f"until is {keywords['until']!r:.80}, but a stage's texts end where its pipeline says (stop); leave it "
                "out."
            )
        decoding, questions = decoding_of(keywords), [question_of(doc) for doc in docs]
        repeats = _repeats(questions)
        if decoding.temperature == 0:
            repeats = [0] * len(docs)
        task = load_task(request["task"])
        session = replace(self.session, chat_template=self._chat_template(request))
        asked = self.arguments.pipeline or request["pipeline"]
        pipeline = task.through(asked, self.arguments.analyze, session.chat_template)
        plan = session.plan(self.arguments.plan, task, pipeline)
        if plan.drafts and decoding.temperature > 0:
            getLogger("lm_eval.litestage").warning("Tokens are drawn, so the drafts of the plan are not used.")
        through_another = self.plans.get(task.name, (pipeline, plan))[0] != pipeline
        self.plans[f"{task.name} through {pipeline.name}" if through_another else task.name] = (pipeline, plan)
        answers: dict[tuple[str, int], Answered] = {}
        for repeat in sorted(set(repeats)):
            asked = [question for question, of in zip(questions, repeats, strict=True) if of == repeat]
            traces = session.run(
                list({question.id: question for question in asked}.values()),
                {"plan": plan},
                pipeline,
                timed=self.arguments.batch_size == 1,
                batch_size=self.arguments.batch_size,
                decoding=replace(decoding, repeat=repeat),
                journal=session.reusing.store,
                progress="questions",
            )["plan"]
            answers |= {(trace.question_id, repeat): answered(trace) for trace in traces}
        return [answers[question.id, repeat] for question, repeat in zip(questions, repeats, strict=True)]

    def _chat_template(self, request: Mapping[str, Any]) -> bool:
        wanted = self.arguments.chat_template or bool(request.get("chat_template"))
        if wanted and not getattr(self.session.loaded.tokenizer, "chat_template", None):
            raise LiteStageError(
                f"The tokenizer of {self.session.loaded.name!r} has no chat template; drop --apply_chat_template."
            )
        return wanted
