"""Schedules: tokens equal those of the Hugging Face model with hooks, whatever the batch and whoever else is in it."""

from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import pytest
import torch
from oracle import ffn, tiny_oracle
from test_fast import fans, outcome
from test_parity import NEW, PROMPTS, ragged, run
from tiny import (
    FAMILIES,
    LONGROPE_SWITCH,
    LONGROPES,
    Characters,
    _hooked,
    random_prompts,
    skipping_by_hooks,
    tiny_engine,
    tiny_model,
    whole_sequence_logits,
)

from litestage.decoder import native
from litestage.decoder.decoder import _times
from litestage.decoder.packed import PackedLinear
from litestage.engine import Engine, Request, scheduler
from litestage.engine.cache import KVCache
from litestage.engine.runner import HostRunner
from litestage.plan import SkipSet, StagePlan

LAYERS = 4
SETS = [SkipSet(mhsa=(1,)), SkipSet(mhsa=(1,), ffn=(2,)), SkipSet(mhsa=(0, 1, 3), ffn=(0, 2))]
STEPS = {"steps": [{"from": 4, "mhsa": [1], "ffn": [2]}, {"from": 9, "mhsa": [0, 1, 3], "ffn": [0, 2]}]}
IN_ONE_PASS = [family for family in FAMILIES if family not in LONGROPES]  # its factors change under way

families = pytest.mark.parametrize("family", IN_ONE_PASS)
phases = pytest.mark.parametrize("phase", ["both", "decode"])


@contextmanager
def growing_by_hooks(family, start, phase):
    """Each of ``SETS`` from its first position on: the prompt has ``start`` tokens."""
    begins = [0 if phase == "both" else start, start + 4 - 1, start + 9 - 1]
    before = SkipSet()
    with ExitStack() as stack:
        for begin, skip in zip(begins, SETS, strict=True):
            new = SkipSet.of(name for name in skip.names if name not in before)
            stack.enter_context(skipping_by_hooks(tiny_model(family), new, full_until=begin))
            before = skip
        yield


def scores_by_hooks(family, prompt, tokens, phase):
    with growing_by_hooks(family, len(prompt), phase):
        return whole_sequence_logits(tiny_model(family), [*prompt, *tokens])[len(prompt) - 1 : -1]


@phases
@families
def test_steps(family, phase):
    plan = StagePlan(SETS[0], phase=phase, schedule=STEPS)
    rows = run(tiny_engine(family), ragged(PROMPTS), plan)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        chosen = scores_by_hooks(family, prompt, row.tokens, phase).argmax(dim=-1).tolist()
        assert chosen == list(row.tokens), (family, phase, len(prompt))
    assert run(tiny_engine(family), ragged(PROMPTS[2:3]), plan)[0].tokens == rows[2].tokens
    assert [row.tokens for row in run(tiny_oracle(family), ragged(PROMPTS), plan)] == [row.tokens for row in rows]
    fixed = run(tiny_engine(family), ragged(PROMPTS), StagePlan(SETS[0], phase=phase))
    for row, without in zip(rows, fixed, strict=True):  # the same up to the fourth token, which is run otherwise
        assert row.tokens[:4] == without.tokens[:4]
    assert sum(row.tokens != without.tokens for row, without in zip(rows, fixed, strict=True)) >= 6


def test_steps_with_longrope_do_not_depend_on_the_batch():
    engine, plan = tiny_engine("phi3_longrope"), StagePlan(SETS[0], schedule=STEPS)
    together = [row.tokens for row in run(engine, ragged(PROMPTS), plan)]
    alone = [run(engine, ragged([prompt]), plan)[0].tokens for prompt in PROMPTS]
    assert together == alone


def test_a_scheduled_plan_runs_no_drafts(monkeypatch):
    plan = StagePlan(SETS[0], schedule=STEPS)
    expected = run(tiny_engine("llama"), ragged(PROMPTS[:1]), plan)[0].tokens
    monkeypatch.setattr(HostRunner, "verify", lambda *_: pytest.fail("a draft was verified"))
    drafted = [Request(PROMPTS[0], NEW, draft=expected)]
    assert run(tiny_engine("llama"), drafted, plan)[0].tokens == expected


# --- the online rule, against a slow reference that is written out row by row ---

OBSERVE = 5
BASE = SkipSet(mhsa=(2,), ffn=(1,))


def observed_by_hooks(family, prompt, tokens, phase):
    """Mean cosine and norm ratio of every feed-forward that runs, over the first ``OBSERVE`` generated tokens."""
    model, start, means = tiny_model(family), len(prompt), {}
    for layer in (0, 2, 3):
        before, update = _hooked(model.model.layers[layer], "ffn")
        seen = {}
        handles = [
            before.register_forward_pre_hook(lambda _, args, seen=seen: seen.update(x=args[0][0])),
            update.register_forward_hook(lambda _m, _a, out, seen=seen: seen.update(update=out[0])),
        ]
        with skipping_by_hooks(model, BASE, full_until=0 if phase == "both" else start):
            whole_sequence_logits(model, [*prompt, *tokens])
        for handle in handles:
            handle.remove()
        x = seen["x"][start : start + OBSERVE]
        y = x + seen["update"][start : start + OBSERVE]
        cosines = [float(a @ b / (a.norm() * b.norm())) for a, b in zip(x, y, strict=True)]
        ratios = [float(b.norm() / a.norm()) for a, b in zip(x, y, strict=True)]
        means[layer] = sum(cosines) / OBSERVE, sum(ratios) / OBSERVE
    return means


def online_logits_by_hooks(family, prompt, tokens, phase, threshold):
    """Logits from which each token is chosen, and the layers whose feed-forward the rule drops in this row."""
    means = observed_by_hooks(family, prompt, tokens, phase)
    dropped = {layer: ratio for layer, (cosine, ratio) in means.items() if cosine >= threshold}
    stand_ins = {("ffn", layer): lambda x, r=ratio: x * r for layer, ratio in dropped.items()}
    start, model = len(prompt), tiny_model(family)
    with (
        skipping_by_hooks(model, BASE, full_until=0 if phase == "both" else start),
        skipping_by_hooks(model, SkipSet(ffn=tuple(dropped)), full_until=start + OBSERVE, stand_ins=stand_ins),
    ):
        return whole_sequence_logits(model, [*prompt, *tokens])[start - 1 : -1], tuple(dropped)


def a_threshold_between(family, phase):
    """One that drops some feed-forwards of some rows."""
    base = run(tiny_engine(family), ragged(PROMPTS), StagePlan(BASE, phase=phase))
    cosines = sorted(
        cosine
        for prompt, row in zip(PROMPTS, base, strict=True)
        if len(row.tokens) > OBSERVE
        for cosine, _ in observed_by_hooks(family, prompt, row.tokens, phase).values()
    )
    middle = len(cosines) // 2
    return (cosines[middle] + cosines[middle - 1]) / 2


@phases
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "olmo2"])
def test_the_online_rule(family, phase):
    threshold = a_threshold_between(family, phase)
    plan = StagePlan(BASE, phase=phase, schedule={"online": {"observe": OBSERVE, "threshold": threshold}})
    rows = run(tiny_engine(family), ragged(PROMPTS), plan)
    sets = set()
    for prompt, row in zip(PROMPTS, rows, strict=True):
        logits, dropped = online_logits_by_hooks(family, prompt, row.tokens, phase, threshold)
        assert logits.argmax(dim=-1).tolist() == list(row.tokens), (family, phase, len(prompt), dropped)
        sets.add(dropped)
    assert len(sets) > 1  # the batch really was split
    alone = [run(tiny_engine(family), ragged([prompt]), plan)[0].tokens for prompt in PROMPTS]
    assert alone == [row.tokens for row in rows]
    options = [Request(prompt, NEW) for prompt in PROMPTS[:4]]  # of one question: rows of one lane that part ways
    assert [row.tokens for row in run(tiny_engine(family), options, plan)] == alone[:4]


@pytest.mark.parametrize("family", LONGROPES)
def test_what_the_online_rule_observed_outlives_the_change_of_longropes_factors(family):
    """The text is run anew there, with the sub-layers that its first tokens decided on."""
    plan = StagePlan(BASE, schedule={"online": {"observe": OBSERVE, "threshold": -1}})  # all feed-forwards go
    prompts = random_prompts([LONGROPE_SWITCH - before for before in (-3, 1, 3, OBSERVE, OBSERVE + 1, 12, 23)])
    expected = [row.tokens for row in run(tiny_oracle(family), ragged(prompts, 20), plan)]
    assert [row.tokens for row in run(tiny_engine(family), ragged(prompts, 20), plan)] == expected


def test_rows_that_memory_let_go_are_observed_anew(monkeypatch):
    plan = StagePlan(BASE, schedule={"online": {"observe": OBSERVE, "threshold": -1}})
    expected = [row.tokens for row in run(tiny_engine("llama"), ragged(PROMPTS), plan)]
    enter, calls = KVCache.enter, []

    def entered(self, lanes, tokens, *, fresh=False):
        calls.append(lanes)
        if len(calls) == OBSERVE:
            raise MemoryError
        return enter(self, lanes, tokens, fresh=fresh)

    monkeypatch.setattr(KVCache, "enter", entered)
    engine = Engine(tiny_model("llama"), Characters())
    assert [row.tokens for row in run(engine, ragged(PROMPTS), plan)] == expected
    assert engine.most_rows == len(PROMPTS) // 2


@phases
def test_options_of_one_question_keep_their_steps(phase):
    plan = StagePlan(SETS[0], phase=phase, schedule=STEPS)
    tails = zip(PROMPTS[3:], (1, 4, 9, 2), strict=False)
    options = [Request(PROMPTS[1] + tail[:length], NEW) for tail, length in tails]
    alone = [run(tiny_engine("qwen2"), [option], plan)[0].tokens for option in options]
    for engine in (tiny_engine("qwen2"), tiny_engine("qwen2", "static"), tiny_oracle("qwen2")):
        assert [row.tokens for row in run(engine, options, plan)] == alone


@phases
@pytest.mark.parametrize("schedule", [STEPS, {"online": {"observe": OBSERVE, "threshold": 0.8}}])
def test_many_questions_of_several_options(schedule, phase, monkeypatch):
    """Lanes of one to five rows are refilled while others go on: rows at any token, some of a lane on one path."""
    monkeypatch.setattr(scheduler, "MAX_ROWS", 12)
    plan, requests = StagePlan(SETS[0], phase=phase, schedule=schedule), fans(9)
    expected = outcome(run(tiny_oracle("qwen2"), requests, plan))
    for path in ("host", "static"):
        assert outcome(run(tiny_engine("qwen2", path), requests, plan)) == expected


def test_a_threshold_that_nothing_reaches_changes_nothing():
    plan = StagePlan(BASE, schedule={"online": {"observe": OBSERVE, "threshold": 1.0}})
    assert run(tiny_engine("llama"), ragged(PROMPTS), plan) == run(
        tiny_engine("llama"), ragged(PROMPTS), StagePlan(BASE)
    )


# --- log-likelihoods ---


def total(logits, tokens):
    return float(logits.log_softmax(dim=-1)[range(len(tokens)), list(tokens)].sum())


@phases
def test_loglikelihoods_under_a_schedule(phase):
    engine, endings = tiny_engine("llama"), [PROMPTS[4][:length] for length in (1, 3, 8, 15)]
    pairs = list(zip(PROMPTS, endings, strict=False))
    plan = StagePlan(SETS[0], phase=phase, schedule=STEPS)
    for (score, _), (prompt, ending) in zip(engine.loglikelihood(pairs, plan), pairs, strict=True):
        assert score == pytest.approx(total(scores_by_hooks("llama", prompt, ending, phase), ending), abs=1e-3)
    threshold = a_threshold_between("llama", phase)
    plan = StagePlan(BASE, phase=phase, schedule={"online": {"observe": OBSERVE, "threshold": threshold}})
    long = [(prompt, PROMPTS[4][:15]) for prompt in PROMPTS]
    dropped = set()
    for (score, _), (prompt, ending) in zip(engine.loglikelihood(long, plan), long, strict=True):
        logits, layers = online_logits_by_hooks("llama", prompt, ending, phase, threshold)
        assert score == pytest.approx(total(logits, ending), abs=1e-3)
        dropped.add(layers)
    assert len(dropped) > 1


def test_what_was_written_under_a_schedule_is_greedy_there():
    engine, plan = tiny_engine("llama"), StagePlan(SETS[0], schedule=STEPS)
    pairs = [(prompt, row.tokens) for prompt, row in zip(PROMPTS, run(engine, ragged(PROMPTS), plan), strict=True)]
    assert all(greedy for _, greedy in engine.loglikelihood(pairs, plan))


# --- maps for whole cuts ---


def maps(skip, form):
    generator = torch.Generator().manual_seed(5)
    keys = {"block": ["mhsa.1", "ffn.3"], "merged": ["ffn.0"]}[form]
    return {key: torch.randn(32, 32, generator=generator) * 0.1 for key in keys}


@pytest.fixture
def one_by_one(monkeypatch):
    """Paths stay as many steps as they have sub-layers: none are joined into one call of C."""
    monkeypatch.setattr(native, "joined", list)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_map_stands_for_a_cut(family, one_by_one):
    skip = SkipSet(mhsa=(1, 2), ffn=(1, 3))
    tensors = maps(skip, "block")
    plan = StagePlan(skip, compensation="block", tensors=tensors)
    engine = tiny_engine(family)
    stream = torch.randn(6, 32)
    path = engine.runner.path(plan, "decode")
    assert len(path) == 2 * LAYERS - 4 + 2
    torch.testing.assert_close(path[2](stream, None), stream + stream @ tensors["mhsa.1"])
    assert len(run(engine, ragged(PROMPTS[:2]), plan)[0].tokens) > 0


@torch.inference_mode()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_matrix_is_merged_into_the_feed_forward_before_a_cut(family, one_by_one):
    skip = SkipSet(mhsa=(1, 2), ffn=(1,))
    tensors = maps(skip, "merged")
    runner, in_pytorch = tiny_engine(family).runner, SimpleNamespace(few=None)
    decoder = runner.decoder
    weight = decoder.body.layers[0].mlp.down_proj.weight.clone()
    for phase, in_prefill in (("both", True), ("decode", False)):
        plan = StagePlan(skip, phase=phase, compensation="merged", tensors=tensors)
        stream = torch.randn(6, 32)
        update = ffn(decoder.architecture.layers[0].feed_forward)(stream, None) - stream
        after = runner.path(plan, "decode")[1](stream, in_pytorch)
        torch.testing.assert_close(after, stream + update @ tensors["ffn.0"], atol=1e-4, rtol=1e-4)
        prefilled = runner.path(plan, "prefill")
        assert len(prefilled) == 2 * LAYERS - (3 if in_prefill else 0)
        expected = stream + (update @ tensors["ffn.0"] if in_prefill else update)
        torch.testing.assert_close(prefilled[1](stream, in_pytorch), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoder.body.layers[0].mlp.down_proj.weight, weight)  # the model itself is untouched


@pytest.mark.parametrize("bias", [False, True])
def test_a_matrix_is_merged_into_a_packed_projection_which_stays_packed(bias):
    usual = torch.nn.Linear(512, 256, bias=bias)
    inputs, matrix = torch.randn(3, 512), torch.randn(256, 256) / 16
    merged = _times(PackedLinear(usual.weight, usual.bias), matrix)
    assert isinstance(merged, PackedLinear)
    with torch.inference_mode():
        torch.testing.assert_close(merged(inputs), usual(inputs) @ matrix, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(_times(usual, matrix)(inputs), usual(inputs) @ matrix, atol=1e-4, rtol=1e-4)
