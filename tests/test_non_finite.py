"""Logits that are no numbers end the question: counted, and never an answer."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tiny import (
    FAMILIES,
    PIPELINE,
    Characters,
    contestant,
    encode,
    random_model,
    random_prompts,
    some_questions,
    staged_model,
)

from litestage.api import Answerer
from litestage.drafts.lookup import Phrases
from litestage.engine import Decoding, Engine, Request
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan, StagePlan
from litestage.plan.draft import Draft
from litestage.profile.forced import TeacherForced, stage_sequences
from litestage.profile.importance import measure_importance
from litestage.runner import Contestant, run
from litestage.store import ResultStore, ReusingEngine

PATHS = ("host", "static")
BAD = 99
"""A token that makes every later token's stream no number."""


def broken_model(value=float("nan"), family="llama"):
    model = random_model(FAMILIES[family].config)
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = value
    return model


def requests(limit=6):
    """One row whose prompt holds the bad token, among others that do not."""
    prompts = [tuple(token for token in prompt if token != BAD) for prompt in random_prompts((7, 9, 11, 8, 12))]
    prompts[2] = (*prompts[2][:-3], BAD, *prompts[2][-2:])
    return [Request(prompt, limit, group=row, stream=str(row)) for row, prompt in enumerate(prompts)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("decoding", [Decoding(), Decoding(temperature=1.0)], ids=["greedy", "drawn"])
@pytest.mark.parametrize("confidences", [True, False])
def test_a_row_without_numbers_ends_and_the_others_are_as_without_it(path, value, decoding, confidences):
    engine = Engine(broken_model(value), Characters(), path)
    rows = engine.generate(requests(), StagePlan(), decoding, confidences=confidences).generations
    assert (rows[2].stop, rows[2].tokens, rows[2].text, rows[2].confidences) == ("non_finite", (), "", ())
    sound = [request for row, request in enumerate(requests()) if row != 2]
    alone = [engine.generate([request], StagePlan(), decoding).generations[0] for request in sound]
    others = [row for index, row in enumerate(rows) if index != 2]
    assert [(row.tokens, row.stop) for row in others] == [(row.tokens, row.stop) for row in alone]


@pytest.mark.parametrize("path", PATHS)
def test_numbers_may_be_lost_under_way(path):
    """The model writes a token and breaks at it: what it wrote before stays."""
    model = random_model(FAMILIES["llama"].config)
    prompt = random_prompts((9,))[0]
    whole = Engine(model, Characters(), path).generate([Request(prompt, 8)], StagePlan(), Decoding()).generations[0]
    at = next(at for at, token in enumerate(whole.tokens) if at > 1 and token not in (*prompt, *whole.tokens[:at]))
    with torch.no_grad():
        model.model.embed_tokens.weight[whole.tokens[at]] = float("nan")
    rule = ExitRule(threshold=0.0, window=3)
    for plan in (StagePlan(), StagePlan(exit=rule)):
        broken = Engine(model, Characters(), path).generate([Request(prompt, 8)], plan, Decoding()).generations[0]
        assert (broken.tokens, broken.stop) == (whole.tokens[: at + 1], "non_finite")


@pytest.mark.parametrize("path", PATHS)
def test_lanes_that_held_no_numbers_are_used_again(path, monkeypatch):
    """More questions than lanes: those that come later into the broken ones' lanes are as if alone."""
    monkeypatch.setattr("litestage.engine.scheduler.MAX_ROWS", 2)
    engine = Engine(broken_model(), Characters(), path)
    asked = [replace(requests()[row % 5], group=row, stream=str(row)) for row in range(15)]
    rows = engine.generate(asked, StagePlan(), Decoding()).generations
    for row, request in zip(rows, asked, strict=True):
        assert row.tokens == engine.generate([request], StagePlan(), Decoding()).generations[0].tokens
    assert [row.stop == "non_finite" for row in rows] == [index % 5 == 2 for index in range(15)]


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("path", PATHS)
def test_a_guess_without_numbers_changes_no_text(path, family):
    """Two options of one question and another question; each draft goes wrong at its third token, which breaks."""
    model, prompts = broken_model(family=family), random_prompts((9, 12, 5))
    asked = [Request(tuple(t for t in prompt if t != BAD), 12, group=n // 2) for n, prompt in enumerate(prompts)]
    without = Engine(model, Characters(), path).generate(asked, StagePlan(), Decoding()).generations
    assert all(row.stop == "length" and BAD not in row.tokens for row in without)
    texts = [(*row.tokens[:2], BAD, *row.tokens[3:]) for row in without]
    drafted = [replace(request, draft=text) for request, text in zip(asked, texts, strict=True)]
    phrases = Phrases.of([request.prompt for request in asked], texts)
    lookup = StagePlan(draft=Draft("lookup", ("calibration",), least=0, phrases=phrases))
    engine = Engine(model, Characters(), path)
    for requests, plan in ((drafted, StagePlan()), (asked, lookup), (asked, StagePlan())):
        rows = engine.generate(requests, plan, Decoding()).generations
        assert [(row.tokens, row.stop) for row in rows] == [(row.tokens, row.stop) for row in without]


# --- a question ---

QUESTIONS = some_questions(4)


@pytest.fixture
def breaking(monkeypatch):
    """The model answers, but breaks at the second question's second stage."""
    generate, asked = Engine.generate, []
    second = tuple(encode(QUESTIONS[1].text))

    def generating(self, requests, plan, decoding, **options):
        batch = generate(self, requests, plan, decoding, **options)
        asked.extend(request.prompt for request in requests)
        rows = [
            replace(row, tokens=row.tokens[:1], stop="non_finite", confidences=row.confidences[:1])
            if request.prompt[: len(second)] == second and "Analyze" in "".join(map(chr, request.prompt))
            else row
            for request, row in zip(requests, batch.generations, strict=True)
        ]
        return replace(batch, generations=rows)

    monkeypatch.setattr(Engine, "generate", generating)
    return asked


@pytest.mark.parametrize("timed", [False, True])
def test_the_question_ends_is_counted_and_has_no_answer(breaking, timed):
    readable = replace(PIPELINE, answer="()")  # whatever is written would be an answer
    store = ResultStore()
    traces = run(QUESTIONS, {"full": contestant(pipeline=readable, store=store)}, timed=timed)["full"]
    assert [trace.non_finite for trace in traces] == [False, True, False, False]
    broken = traces[1]
    assert (broken.answer, broken.correct, broken.parse_failure) == (None, False, True)
    recall, analyze, summarize = broken.stages
    assert "non_finite" not in recall.stops
    assert set(analyze.stops) == set(summarize.stops) == {"non_finite"}
    assert summarize.tokens == (0,)
    last = [prompt for prompt in breaking if "So:" in "".join(map(chr, prompt))]
    assert len(set(last)) == len(QUESTIONS) - 1  # the summary was not even asked for


def test_what_broke_is_not_kept(breaking):
    store = ResultStore()
    run(QUESTIONS, {"full": contestant(store=store)})
    again = contestant(store=store)
    run(QUESTIONS, {"full": again})
    assert again.engine.ran == len(QUESTIONS[1].options)  # its second stage


def test_results_count_it(breaking):
    from litestage.comparison.results import Measured, summarise

    full = contestant()
    measured = Measured(full.plan, run(QUESTIONS, {"full": full})["full"], ())
    (entry,) = summarise({"full": measured})
    assert entry["non_finite"] == 1
    assert entry["stages"]["analyze"]["stops"]["non_finite"] == len(QUESTIONS[1].options)


def test_from_python_it_is_one_sentence(monkeypatch):
    from litestage.session import Session

    loaded = staged_model()
    engine = Engine(loaded.model, loaded.tokenizer)
    session = Session(loaded, engine, ReusingEngine(engine, "tiny", ResultStore()))
    generate = Engine.generate

    def broken(self, *arguments, **options):
        batch = generate(self, *arguments, **options)
        return replace(batch, generations=[replace(row, stop="non_finite") for row in batch.generations])

    monkeypatch.setattr(Engine, "generate", broken)
    monkeypatch.setattr(Session, "contestant", lambda *_: Contestant(session.reusing, encode, PIPELINE, plan))
    plan = Plan.full(PIPELINE.stage_names)
    with pytest.raises(LiteStageError, match="not finite"):
        Answerer(session, PIPELINE, plan)("Where?", ["here", "there"])


def without_numbers():
    """Full depth of a model whose streams are no numbers after the first letter of every question."""
    loaded = staged_model()
    model = deepcopy(loaded.model)
    with torch.no_grad():
        model.model.embed_tokens.weight[ord("W")] = float("nan")  # of "Where"
    engine = ReusingEngine(Engine(model, loaded.tokenizer), "broken", ResultStore())
    return Contestant(engine, encode, PIPELINE, Plan.full(PIPELINE.stage_names))


def test_nothing_is_ranked_on_what_is_no_number():
    """By cosine, every sub-layer of a NaN is like every other; by likelihood, there are no outputs to look at."""
    full = without_numbers()
    traces = run(QUESTIONS, {"full": full})["full"]
    assert all(trace.non_finite for trace in traces)
    with pytest.raises(LiteStageError, match="no number at mhsa 0, on the prompts of stage 'recall'"):
        measure_importance(full, QUESTIONS, traces)
    with pytest.raises(LiteStageError, match=r"writes nothing in stage 'recall' .* 4 meet logits that are no numbers"):
        stage_sequences(full, QUESTIONS, traces)


def test_a_sub_layer_without_which_there_are_no_numbers_is_the_last_to_go():
    """Its harm is the largest there is; as NaN it would be compared with nothing, and come anywhere."""
    engine = Engine(staged_model().model, Characters())
    pairs = [(prompt, (5, 6)) for prompt in random_prompts((7, 9, 11))]
    forced = TeacherForced(engine, pairs)
    with torch.inference_mode():
        assert forced.harms(torch.full_like(forced.streams[-1], float("nan"))).tolist() == [2.0] * 3
        assert (forced.harms(forced.streams[-1]) <= 2).all()
