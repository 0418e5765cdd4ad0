"""Clocks that say what they mean: a made-up clock moves only when work is done, so every second's place is known."""

from dataclasses import replace

import pytest
from tiny import PIPELINE, contestant, some_questions, staged_model

from litestage.comparison.results import Measured, summarise
from litestage.engine import Decoding, Engine, Request
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan
from litestage.runner import run
from litestage.stages import Pipeline, Stage
from litestage.store import ResultStore, ReusingEngine

RENDER, TOKENISE, SET_UP, PER_TOKEN, STEP, PARSE = 7.0, 3.0, 11.0, 0.01, 1.0, 5.0
PATHS = ("host", "static")


class Clock:
    """Seconds that pass only where something is done: each kind of work takes what the constants above say."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(Engine, "clock", lambda engine: self.now)

    def takes(self, owner, name, seconds, monkeypatch):
        real = getattr(owner, name)

        def timed(*args, **kwargs):
            self.now += seconds(*args, **kwargs) if callable(seconds) else seconds
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, timed)


def passing(ids):
    """Seconds of one forward pass: a step, and each token its own."""
    return STEP + PER_TOKEN * ids.numel()


@pytest.fixture
def clock(monkeypatch):
    made = Clock(monkeypatch)
    made.takes(Stage, "prompts", RENDER, monkeypatch)
    made.takes(Pipeline, "parse_answer", PARSE, monkeypatch)
    return made


def timed_contestant(clock, monkeypatch, path="host", plan=None, **changes):
    """A contestant whose engine's passes, set-up and tokeniser take known seconds; stages of at least 2 tokens."""
    loaded = staged_model()
    engine = Engine(loaded.model, loaded.tokenizer, path)
    engine.eos = (-1,)  # every row runs to its limit
    made = contestant(plan, **changes)
    made = replace(made, engine=ReusingEngine(engine, loaded.fingerprint, ResultStore()))
    made.answer(some_questions(3)[2:], timed=True)  # what is made once is made
    clock.takes(engine.decoder, "embed", passing, monkeypatch)
    clock.takes(engine.runner, "path", SET_UP, monkeypatch)

    def encode(text):
        clock.now += TOKENISE
        return [ord(character) for character in text]

    return replace(made, encode=encode)


@pytest.mark.parametrize("path", PATHS)
def test_a_questions_seconds_are_where_they_were_spent(path, clock, monkeypatch):
    """The stepwise reference: prompts, set-up and prefill until the first tokens; a step for every later token."""
    question = some_questions(3)[2]
    answering = timed_contestant(clock, monkeypatch, path)
    before = clock.now
    trace = answering.answer([question], timed=True)[0]
    assert trace.latency_s == clock.now - before
    for stage in trace.stages:
        rows, limit = len(stage.tokens), max(stage.tokens)
        assert set(stage.tokens) == {limit}
        prompt = stage.shared_tokens + sum(length - stage.shared_tokens for length in stage.prompt_tokens)
        set_up = SET_UP * (1 if path == "static" else 2)  # paths of prefill and decode; a static step is made once
        prefill_s = RENDER + rows * TOKENISE + set_up + STEP + PER_TOKEN * prompt
        assert stage.prefill_s == pytest.approx(prefill_s)
        assert stage.decode_s == pytest.approx((limit - 1) * (STEP + PER_TOKEN * rows))
        assert stage.ttft_s == stage.prefill_s
        assert stage.tpot_s == pytest.approx(stage.decode_s / (limit - 1))
    whole = sum(stage.prefill_s + stage.decode_s for stage in trace.stages)
    assert trace.latency_s == pytest.approx(whole + PARSE)
    assert trace.ttft_s == trace.stages[0].ttft_s
    successive = sum(max(stage.tokens) for stage in trace.stages)
    assert trace.tpot_s == pytest.approx((trace.latency_s - trace.ttft_s) / (successive - 1))


def test_options_one_after_another_have_their_first_token_when_the_first_of_them_has(clock, monkeypatch):
    sequential = PIPELINE.with_mode("per_option_sequential")
    answering = timed_contestant(clock, monkeypatch, pipeline=sequential)
    stage = answering.answer([some_questions(3)[2]], timed=True)[0].stages[1]
    rows, each = len(stage.tokens), [STEP + PER_TOKEN * length for length in stage.prompt_tokens]
    own = [2 * SET_UP + one for one in each]
    assert stage.ttft_s == pytest.approx(RENDER + rows * TOKENISE + own[0])
    assert stage.prefill_s == pytest.approx(RENDER + rows * TOKENISE + sum(own))
    steps = sum(stage.tokens) - rows
    assert stage.decode_s == pytest.approx(steps * (STEP + PER_TOKEN))
    assert stage.tpot_s == pytest.approx((stage.prefill_s + stage.decode_s - stage.ttft_s) / (sum(stage.tokens) - 1))


@pytest.mark.parametrize("path", PATHS)
def test_rows_of_one_new_token_have_no_decoding(path, clock, monkeypatch):
    """Set-up, bundles, paths and a beginning that all prompts share are prefill, however many rows there are."""
    engine = Engine(staged_model().model, staged_model().tokenizer, path)
    requests = [Request((*range(40, 80), 90 + row, 95), 1, group=row) for row in range(6)]
    engine.generate(requests, StagePlan(), Decoding())
    clock.takes(engine.decoder, "embed", passing, monkeypatch)
    clock.takes(engine.runner, "path", SET_UP, monkeypatch)
    batch = engine.generate(requests, StagePlan(), Decoding())
    assert batch.prefill_s > STEP + SET_UP
    assert batch.decode_s == 0


def test_what_did_not_fit_the_context_has_no_seconds_of_its_own():
    from litestage.stages import Question

    long = Question("long", "Where " * 100 + "?", ("here", "there"), "A")
    trace = run([long], {"full": contestant()}, timed=True)["full"][0]
    assert trace.latency_s > 0
    for stage in trace.stages:
        assert (stage.prefill_s, stage.decode_s, stage.ttft_s, stage.tpot_s) == (None,) * 4
    plan = Plan.full(PIPELINE.stage_names)
    entry = summarise({"full": Measured(plan, [trace], [trace])})[0]
    assert not {"latency_s", "speedup", "ttft_s", "tpot_s"} & set(entry)
    assert not any({"prefill_s", "decode_s"} & set(stage) for stage in entry["stages"].values())


def test_a_text_that_broke_off_at_numbers_that_are_none_makes_no_method_faster():
    plan, stops = Plan.full(PIPELINE.stage_names), ("non_finite",)
    traces = run(some_questions(3), {"full": contestant()}, timed=True)["full"]
    stages = tuple(replace(stage, stops=stops * len(stage.stops)) for stage in traces[0].stages)
    broken = [replace(traces[0], stages=stages, latency_s=1e-9), *traces[1:]]
    full, method = summarise({"full": Measured(plan, traces, traces), "method": Measured(plan, broken, broken)})
    assert full["latency_n"] == method["latency_n"] == 2
    assert method["speedup"] == 1


def test_a_method_is_compared_over_the_questions_that_every_method_could_answer():
    """One of three timed questions is too long: it has no part in seconds or speed-ups, and stays in the accuracy."""
    from litestage.stages import Question

    asked = [*some_questions(2), Question("long", "Where " * 100 + "?", ("here", "there"), "A")]
    plans = {"full": None, "skipping": Plan({"recall": StagePlan(SkipSet(ffn=(1,)), exit=ExitRule())})}
    measured = {}
    for name, plan in plans.items():
        traces = run(asked, {name: contestant(plan)}, timed=True)[name]
        measured[name] = Measured(plan or Plan.full(PIPELINE.stage_names), traces, traces)
    for entry, traces in zip(summarise(measured), measured.values(), strict=True):
        fit = [trace for trace in traces.latency if not trace.too_long]
        assert entry["latency_n"] == 2
        assert entry["latency_s"]["mean"] == pytest.approx(sum(trace.latency_s for trace in fit) / 2)
        assert entry["ttft_s"] == pytest.approx(sum(trace.ttft_s for trace in fit) / 2)
        assert entry["stages"]["recall"]["tpot_s"] == pytest.approx(sum(t.stages[0].tpot_s for t in fit) / 2)
        assert entry["too_long"] == 1
