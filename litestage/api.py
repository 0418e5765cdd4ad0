"""The Python front door: ``litestage.load(model, plan=...)(question, options)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestage.config import pipeline_of_model
from litestage.data import load_task
from litestage.data.task import FEWSHOT, IN_CHAT
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.session import Session
from litestage.stages import Pipeline, Question, load_pipeline
from litestage.trace import Trace


@dataclass(frozen=True)
class Answer:
    """An answered question.

    Attributes:
        text: what the last stage wrote.
        label: the letter it settled on, or None.
        option: the text of that option, or None.
        trace: prompts' and outputs' token counts, texts, times and reasons for stopping, per stage.
    """

    text: str
    label: str | None
    option: str | None
    trace: Trace


@dataclass(frozen=True)
class Answerer:
    """Answers questions with one model under one plan; see :func:`load`."""

    session: Session
    pipeline: Pipeline
    plan: Plan

    def __call__(self, question: str, options: Sequence[str]) -> Answer:
        """Answers a question alone, by the clock.

        Raises:
            LiteStageError: an empty question, no list of options, or a prompt longer than the model's context.
        """
        several = isinstance(options, Sequence) and not isinstance(options, str)
        asked = Question("asked", question, tuple(options) if several else options)  # type: ignore[arg-type]
        contestant = self.session.contestant(self.pipeline, self.plan)
        trace = contestant.answer([asked], timed=True)[0]
        if why := contestant.why_not_answered(trace):
            raise LiteStageError(why)
        option = asked.options[asked.labels.index(trace.answer)] if trace.answer in asked.labels else None
        return Answer(" ".join(trace.stages[-1].texts), trace.answer, option, trace)


def load(
    model: str | Path = "reference",
    plan: str | Path | Plan = "full",
    *,
    task: str | Path | None = None,
    pipeline: str | Path | Pipeline | None = None,
    device: Any = "auto",
    dtype: str = "auto",
    weights: str = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    generation_config: str = "ignore",
    chat_template: bool = False,
    store: str | Path | None = None,
) -> Answerer:
    """Loads a model and what it needs to answer questions in stages.

    Args:
        model: ``reference``, ``smollm2-135m``, a folder, a GGUF file, or a hub name.
        plan: a plan, a plan file, or a shorthand such as ``uniform:8+exit``.
        task: whose pipeline, limits and calibration split are used; menagerie for the reference model.
        pipeline: another pipeline than the model's own or the task's, by name, file or as it is.
        device: a name or torch's.
        weights: ``int8``: in 8 bits, on a CPU.
        revision: hub branch, tag or commit.
        adapter: folder or hub name of a PEFT adapter, merged at loading.
        generation_config: ``ignore`` says which of the model's generation settings are left out, ``refuse`` stops.
        chat_template: put prompts through the tokenizer's chat template; tasks whose pipeline is the few-shot one then
            go through the same as a chat.
        store: file that keeps measurements between runs; by default they last as long as the process.

    Raises:
        LiteStageError: whatever cannot be loaded, or a plan that does not fit.
    """
    model, device = str(model), str(device)
    chosen = load_task(task or "menagerie") if task or model.startswith("reference") else None
    named = str(pipeline) if pipeline else pipeline_of_model(model)
    if isinstance(pipeline, Pipeline):
        through = pipeline
    elif chosen:
        through = chosen.through(named, chat=chat_template)
    else:
        through = load_pipeline(named or (IN_CHAT[FEWSHOT] if chat_template else FEWSHOT))
    session = Session.open(
        model,
        revision=revision,
        adapter=None if adapter is None else str(adapter),
        generation_config=generation_config,
        device=device,
        dtype=dtype,
        weights=weights,
        chat_template=chat_template,
        store=store,
    )
    if isinstance(plan, Plan):
        session.check(plan, through)
    else:
        plan = session.plan(str(plan), chosen, through)
    return Answerer(session, through, plan)
