"""Search by verification: a draft changes how long decoding takes, never what comes out."""

from dataclasses import replace

import pytest
from tiny import contestant, random_prompts, some_questions, tiny_engine

from litestage.engine import Decoding, Request
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan
from litestage.store import ResultStore

PROMPTS = random_prompts((5, 12, 17, 23, 30, 9, 21, 14))
REQUESTS = [Request(prompt, 20, group=index // 2) for index, prompt in enumerate(PROMPTS)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3_longrope"])
@pytest.mark.parametrize("phase", ["both", "decode"])
@pytest.mark.parametrize("skip", [SkipSet(), SkipSet(mhsa=(0,)), SkipSet(ffn=(2,))], ids=["full", "mhsa0", "ffn2"])
def test_outputs_equal_plain_decoding_token_by_token(family, phase, skip):
    engine, plan = tiny_engine(family), StagePlan(skip=skip, phase=phase)
    plain = engine.generate(REQUESTS, plan, Decoding(), confidences=True).generations
    for neighbour in (plan, StagePlan(), StagePlan(skip=SkipSet(ffn=(3,)))):
        drafts = engine.generate(REQUESTS, neighbour, Decoding()).generations
        drafted = [replace(request, draft=draft.tokens) for request, draft in zip(REQUESTS, drafts, strict=True)]
        verified = engine.generate(drafted, plan, Decoding(), confidences=True).generations
        assert [row.tokens for row in verified] == [row.tokens for row in plain]
        assert [row.stop for row in verified] == [row.stop for row in plain]
        for ours, theirs in zip(verified, plain, strict=True):
            assert ours.confidences == pytest.approx(theirs.confidences, abs=1e-5)


@pytest.mark.parametrize("draft", [(), (7,), (7, 8, 9), tuple(range(3, 60))], ids=len)
def test_a_wrong_draft_of_any_length_is_harmless(draft):
    engine = tiny_engine("llama")
    plain = engine.generate(REQUESTS, StagePlan(), Decoding()).generations
    verified = engine.generate([replace(r, draft=draft) for r in REQUESTS], StagePlan(), Decoding()).generations
    assert verified == plain


def test_a_right_draft_takes_one_pass(monkeypatch):
    engine = tiny_engine("llama")
    tokens = engine.generate(REQUESTS[:1], StagePlan(), Decoding()).generations[0].tokens
    passes, embed = [], engine.decoder.embed
    monkeypatch.setattr(engine.decoder, "embed", lambda ids: passes.append(1) or embed(ids))
    engine.generate([replace(REQUESTS[0], draft=tokens)], StagePlan(), Decoding())
    verified = len(passes)
    passes.clear()
    engine.generate(REQUESTS[:1], StagePlan(), Decoding())
    assert verified == 2  # the prompt and the draft
    assert len(passes) == len(tokens)


def test_stop_strings_limits_and_exits_hold_inside_a_draft():
    engine = tiny_engine("llama")
    tokens = engine.generate(REQUESTS[:1], StagePlan(), Decoding()).generations[0].tokens
    for plan, decoding, limit in (
        (StagePlan(), Decoding(stop=(chr(tokens[6]),)), 20),
        (StagePlan(), Decoding(), 5),
        (StagePlan(exit=ExitRule(threshold=1.0, window=3)), Decoding(), 20),
    ):
        request = replace(REQUESTS[0], limit=limit)
        plain = engine.generate([request], plan, decoding).generations
        assert engine.generate([replace(request, draft=tokens)], plan, decoding).generations == plain


def test_the_store_finds_the_drafts_and_the_answers_stay_the_same():
    """Full depth is answered first; a plan with it as neighbour answers as without."""
    questions, store = some_questions(6), ResultStore()
    full = Plan.full(("recall", "analyze", "summarize"))
    skipping = Plan({name: StagePlan(skip=SkipSet(ffn=(1,))) for name in full.stages})
    contestant(full, store).answer(questions)
    drafted = contestant(skipping, store, neighbours=(full,)).answer(questions)
    assert drafted == contestant(skipping).answer(questions)
