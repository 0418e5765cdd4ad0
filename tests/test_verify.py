"""Search by verification: a draft changes how long decoding takes, never what comes out."""

from dataclasses import replace

import pytest
import torch
from oracle import tiny_oracle
from tiny import Characters, contestant, random_prompts, some_questions, tiny_engine, tiny_model

from litestage.engine import Decoding, Detokenise, Engine, Request
from litestage.engine.attention import FREE
from litestage.engine.prompt_tree import prompt_trees
from litestage.engine.rows import Row
from litestage.engine.sampler import Sampler
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


@torch.inference_mode()
@pytest.mark.parametrize("path", ["host", "static"])
def test_rows_run_guesses_of_any_number_in_one_pass_and_nothing_rejected_stays(path):
    """A runner's third operation, again and again: rows of two lanes, 0 to 4 guesses, right, half right and wrong."""
    written = tiny_oracle("qwen2").generate(REQUESTS[:4], StagePlan(), Decoding()).generations
    rows = [Row(request, None, (2,), Detokenise(Characters()), room=1024) for request in REQUESTS[:4]]
    runner, passes = Engine(tiny_model("qwen2"), Characters(), path).runner, 0
    batch = runner.batch(runner.layers(StagePlan()), Sampler(Decoding()), lanes=2, slots=30, widest=2)
    batch.trees[:] = prompt_trees(rows, 64)
    runner.prefill(batch, [0, 1])
    while any(row.going for row in rows):
        guesses = {}
        for at, (row, own) in enumerate(zip(rows, written, strict=True)):
            count = (at + passes) % 5
            right = own.tokens[len(row.tokens) :][:count]
            guesses[row] = [row.last, *right[: (passes + 1) % 4], *[7] * max(0, count - (passes + 1) % 4)]
        runner.verify(batch, guesses)
        passes += 1
        for lane, tree in enumerate(batch.trees):
            kept = len(tree.prompt) + sum(len(row.tokens) - 1 for row in tree.rows)
            assert (batch.cache.positions[lane] != FREE).sum() == kept <= batch.cache.used[lane]
    assert [tuple(row.tokens) for row in rows] == [row.tokens for row in written]
    assert passes < 0.7 * max(len(row.tokens) for row in rows)


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
