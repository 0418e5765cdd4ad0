"""What a stage leaves to the next, and what all prompts begin with, is prefilled once; the tokens stay the same."""

from dataclasses import replace

import pytest
import torch
from oracle import tiny_oracle
from test_fast import outcome
from tiny import FAMILIES, LONGROPES, contestant, random_prompts, some_questions, tiny_engine

from litestage.comparison.results import Measured, same_text
from litestage.config import load_config
from litestage.data import load_task
from litestage.engine import Decoding, Engine, PrefixCache, Request, scheduler
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan, load_plan, save_plan
from litestage.plan.draft import Draft
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.stages import load_pipeline
from litestage.store import ResultStore, ReusingEngine
from litestage.trace import StageTrace, Trace

PIPELINE = load_pipeline("recall_analyze_summarize")
SEVERAL = SkipSet(mhsa=(1,), ffn=(2,))
REUSING = [family for family in FAMILIES if family not in LONGROPES]  # its rotary factors change under way


def stages(engine, plans, prefixes, questions=5, rows=3):
    """Every question through a stage, a stage of several rows and a last one, each prompt going on where the one before
    ended: all generations, and the tokens that were forwarded."""
    prompts = {question: random_prompts((12 + question,), seed=question)[0] for question in range(questions)}
    written, before = [], engine.decoder.work.tokens
    for stage, plan in enumerate(plans):
        if prefixes is not None:
            prefixes.following = plans[stage + 1] if stage + 1 < len(plans) else None
        tails = [(5 + row, 6) for row in range(rows)] if stage == 1 else [(7,)]
        requests = [
            Request((*prompt, *tail), 6, group=question) for question, prompt in prompts.items() for tail in tails
        ]
        generations = engine.generate(requests, plan, Decoding(), confidences=True, prefixes=prefixes).generations
        written += generations
        for request, generation in zip(reversed(requests), reversed(generations), strict=True):  # the first row is last
            prompts[request.group] = (*request.prompt, *generation.tokens)
    return written, engine.decoder.work.tokens - before


@pytest.mark.parametrize(("family", "path"), [*((family, "host") for family in REUSING), ("qwen2", "static")])
def test_stages_that_run_the_same_sublayers_write_the_same_with_half_the_tokens(family, path, monkeypatch):
    """Lanes are refilled, and rows leave at different steps."""
    monkeypatch.setattr(scheduler, "MAX_ROWS", 6)
    plans = [StagePlan(SEVERAL, exit=ExitRule(threshold=0.3, window=2))] * 3
    afresh, all_tokens = stages(tiny_engine(family, path), plans, None)
    carried, fewer = stages(tiny_engine(family, path), plans, PrefixCache())
    assert outcome(carried) == outcome(afresh)
    for one, two in zip(carried, afresh, strict=True):
        assert one.confidences == pytest.approx(two.confidences, abs=1e-4)
    assert fewer < 0.75 * all_tokens


@pytest.mark.parametrize(
    ("second", "third"),
    [
        (StagePlan(SEVERAL), StagePlan()),
        (StagePlan(phase="decode", skip=SEVERAL), StagePlan(SEVERAL)),
        (StagePlan(SkipSet(mhsa=(0,))), StagePlan(SkipSet(mhsa=(2,)))),
    ],
    ids=["another set", "prompts at full depth", "another attention"],
)
def test_stages_that_do_not_run_the_same_prefill_afresh(second, third):
    engine, plans = tiny_engine("llama"), [StagePlan(SkipSet(ffn=(0,))), second, third]
    afresh, tokens = stages(engine, plans, None)
    carried, as_many = stages(engine, plans, PrefixCache())
    assert (outcome(carried), as_many) == (outcome(afresh), tokens)


@pytest.mark.parametrize(
    "plans",
    [
        [StagePlan(SEVERAL, phase="decode")] * 3,
        [StagePlan(SEVERAL, phase="decode"), StagePlan(), StagePlan(SkipSet(ffn=(0,)), phase="decode")],
        [StagePlan(), StagePlan(schedule={"steps": [{"from": 3, "ffn": [1]}]}, phase="decode"), StagePlan()],
    ],
    ids=["one set", "each its own", "a growing set"],
)
def test_prompts_at_full_depth_are_shared_by_stages_whose_text_skips(plans):
    afresh, all_tokens = stages(tiny_engine("llama"), plans, None)
    carried, fewer = stages(tiny_engine("llama"), plans, PrefixCache())
    assert outcome(carried) == outcome(afresh)
    assert fewer < 0.9 * all_tokens


def test_a_stage_left_out_between_leaves_nothing_of_its_own_to_be_mistaken():
    """The store may know all of a stage's generations: the next one then finds what the stage before that left."""
    engine, prefixes = tiny_engine("llama"), PrefixCache()
    prefixes.following = StagePlan(SEVERAL)
    (prompt,) = random_prompts((20,))
    engine.generate([Request(prompt, 4)], StagePlan(SEVERAL), Decoding(), prefixes=prefixes)
    (alone,) = engine.generate([Request((*prompt, 9), 6)], StagePlan(), Decoding()).generations
    (after,) = engine.generate([Request((*prompt, 9), 6)], StagePlan(), Decoding(), prefixes=prefixes).generations
    assert outcome([after]) == outcome([alone])


@pytest.mark.parametrize("path", ["host", "static"])
def test_what_all_prompts_begin_with_is_prefilled_once(path):
    """As worked examples are: 40 tokens that 6 prompts share, in 40 + 6 x 5 tokens of prefill."""
    engine, (head,) = tiny_engine("qwen2", path), random_prompts((40,))
    requests = [Request((*head, *random_prompts((5,), seed=9 + at)[0]), 1, group=at) for at in range(6)]
    before = engine.decoder.work.tokens
    together = engine.generate(requests, StagePlan(SEVERAL), Decoding()).generations
    assert engine.decoder.work.tokens - before == 40 + 6 * 5
    plain = tiny_oracle("qwen2").generate(requests, StagePlan(SEVERAL), Decoding()).generations
    assert outcome(together) == outcome(plain)


def test_questions_side_by_side_write_what_they_write_one_after_another(monkeypatch):
    """Two threads, each with questions of its own; afterwards as many threads share an operation as before."""
    threads = torch.get_num_threads()
    requests = [Request(prompt, 9, group=at // 2) for at, prompt in enumerate(random_prompts((9, 10, 17, 30) * 6))]
    plan, engine, used = StagePlan(SEVERAL), tiny_engine("llama"), []
    afterwards = scheduler._side_by_side
    monkeypatch.setattr(scheduler, "_side_by_side", lambda parts: used.append(len(parts)) or afterwards(parts))
    try:
        torch.set_num_threads(1)
        alone = engine.generate(requests, plan, Decoding(), confidences=True).generations
        torch.set_num_threads(2)
        together = engine.generate(requests, plan, Decoding(), confidences=True).generations
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert used == [2]
    assert outcome(together) == outcome(alone)


def test_by_the_clock_every_stage_prefills_afresh(monkeypatch):
    """As in the paper: there each stage has sub-layers of its own, and full depth is held to the same."""
    given, generate = [], Engine.generate

    def spy(self, *asked, prefixes=None, **options):
        given.append(prefixes)
        return generate(self, *asked, prefixes=prefixes, **options)

    monkeypatch.setattr(Engine, "generate", spy)
    contestant().answer(some_questions(1), timed=True)
    assert set(given) == {None}
    given.clear()
    contestant().answer(some_questions(1))
    assert None not in given


def test_sixteen_questions_of_the_reference_model_are_so_many_tokens():
    """The guard against slowing down that no clock decides: 237 tokens a question, padding included, without carrying
    over; 13 + 1, 8 + 1 and 8 + 1 passes of each stage where the longest rows set the number."""
    work = Workbench.open(load_config(["engine=cpu"]))
    asked, session = work.task.questions("test")[:16], work.session
    full = session.contestant(work.pipeline, Plan.full(work.pipeline.stage_names))
    engine = ReusingEngine(session.engine, session.loaded.fingerprint, ResultStore())
    threads, done = torch.get_num_threads(), session.engine.decoder.work
    try:
        torch.set_num_threads(1)
        replace(full, engine=engine, neighbours=()).answer(asked)
    finally:
        torch.set_num_threads(threads)
    assert done.tokens / len(asked) < 165
    assert done.passes <= 35


# --- by the clock ---


@pytest.mark.parametrize("analyze", ["per_option", "per_option_sequential", "joint"])
@pytest.mark.parametrize(
    "plan",
    [Plan.full(PIPELINE.stage_names), Plan(dict.fromkeys(PIPELINE.stage_names, StagePlan(SEVERAL, phase="decode")))],
    ids=["full depth", "skipping in decode"],
)
def test_by_the_clock_a_plan_with_a_prefix_cache_writes_the_same_with_less_prefill(plan, analyze):
    pipeline = PIPELINE.with_mode(analyze)
    session = Session.open("reference")
    plans = {"afresh": plan, "cached": replace(plan, prefix_cache=True)}
    questions = load_task("menagerie").questions("test")[:6]
    before = session.engine.decoder.work.tokens
    afresh = session.run(questions, {"afresh": plans["afresh"]}, pipeline, timed=True)["afresh"]
    between = session.engine.decoder.work.tokens
    cached = session.run(questions, {"cached": plans["cached"]}, pipeline, timed=True)["cached"]
    after = session.engine.decoder.work.tokens
    for one, two in zip(afresh, cached, strict=True):
        assert [stage.token_ids for stage in one.stages] == [stage.token_ids for stage in two.stages]
        assert one.answer == two.answer
        assert not any(stage.reused_tokens for stage in one.stages)
        recall, *later = two.stages
        assert recall.reused_tokens == ()
        assert all(
            0 < reused < prompt
            for stage in later
            for reused, prompt in zip(stage.reused_tokens, stage.prompt_tokens, strict=True)
        )
    assert after - between < 0.85 * (between - before)


def test_a_plan_keeps_its_certified_answers_with_a_prefix_cache(tmp_path):
    plan = Plan({"recall": StagePlan(SEVERAL)})
    cached = replace(plan, prefix_cache=True)
    assert cached.answers_hash == plan.hash != cached.hash
    save_plan(cached, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == cached
    (tmp_path / "plan.yaml").write_text("schema: litestage.plan/1\nprefix_cache: 3\nstages: {}\n")
    with pytest.raises(LiteStageError, match="prefix_cache is 3; write true or false"):
        load_plan(tmp_path / "plan.yaml")


def test_the_share_of_the_same_text_is_of_what_was_really_run_under_a_prefix_cache():
    plan = Plan.full(("recall",))

    def traces(*tokens):
        rows = [StageTrace("recall", (3,), 0, (1,), ("x",), ("eos",), token_ids=((token,),)) for token in tokens]
        return [Trace(str(at), plan.hash, (row,), "A", True) for at, row in enumerate(rows)]

    full = Measured(plan, traces(1, 2, 3, 4), traces(1, 2))
    cached = Measured(replace(plan, prefix_cache=True), traces(1, 2, 3, 4), traces(1, 9))
    assert same_text(full, cached) == {"same_text": 0.5}
    drafting = Measured(plan.with_drafts({"recall": Draft(sources=("prompt",))}), traces(1, 2, 3, 9), traces(1, 2))
    assert same_text(full, drafting) == {"same_text": 0.75}
    assert same_text(full, full) == {}
