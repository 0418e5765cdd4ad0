"""Under a skip set, tokens equal the same Hugging Face model with the skipped sub-layers' updates forced to zero."""

import copy
import gc
import weakref
from dataclasses import replace

import pytest
import torch
from oracle import Oracle
from test_parity import NEW, PROMPTS, families, ragged, run
from tiny import (
    FAMILIES,
    LAYERS,
    PIPELINE,
    Characters,
    contestant,
    encode,
    greedy,
    reference_logits,
    skipping_by_hooks,
    some_questions,
    staged_model,
    tiny_engine,
    tiny_model,
)

from litestage.decoder import lean
from litestage.engine import Engine, Request
from litestage.engine.cache import KVCache
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan

EVERY_LAYER = tuple(range(LAYERS))
SUBLAYERS = [(kind, layer) for layer in EVERY_LAYER for kind in ("mhsa", "ffn")]


def skip_sets(family):
    """By what they try: among them the layers that Hugging Face reads lengths and mask sizes off."""
    tiny = FAMILIES[family]
    sets = {
        "attention of layer 0": SkipSet(mhsa=(0,)),
        "layer 0": SkipSet(mhsa=(0,), ffn=(0,)),
        "the last layer": SkipSet(mhsa=(LAYERS - 1,), ffn=(LAYERS - 1,)),
        "attentions": SkipSet(mhsa=EVERY_LAYER),
        "feed-forwards": SkipSet(ffn=EVERY_LAYER),
        "mixed": SkipSet(mhsa=(0, 2), ffn=(1, 3)),
        "mixed otherwise": SkipSet(mhsa=(1, 3), ffn=(0,)),
    }
    if tiny.full:
        sets["attention of the first full layer"] = SkipSet(mhsa=tiny.full[:1])
    if tiny.sliding:
        sets["attention of the first sliding layer"] = SkipSet(mhsa=tiny.sliding[:1])
    if tiny.full and tiny.sliding:
        sets["all full layers"] = SkipSet(mhsa=tiny.full, ffn=tiny.full[:1])
        sets["all sliding layers"] = SkipSet(mhsa=tiny.sliding, ffn=tiny.sliding[-1:])
    return sets


def assert_is_the_references_own(family, prompt, tokens, plan, stand_ins=None):
    """Every token is the reference's argmax after the ones before it; so the reference writes the same text."""
    logits = reference_logits(tiny_model(family), prompt, tokens, plan.skip, phase=plan.phase, stand_ins=stand_ins)
    assert logits.argmax(dim=-1).tolist() == list(tokens), (family, plan.skip, plan.phase, len(prompt))


def assert_batch_is_the_references_own(family, plan, stand_ins=None):
    rows = run(tiny_engine(family), ragged(PROMPTS), plan)
    for prompt, row in zip(PROMPTS, rows, strict=True):
        assert_is_the_references_own(family, prompt, row.tokens, plan, stand_ins)
    alone = run(tiny_engine(family), ragged(PROMPTS[2:3]), plan)
    assert alone[0].tokens == rows[2].tokens


@pytest.mark.parametrize(("family", "what"), [(family, what) for family in FAMILIES for what in skip_sets(family)])
def test_skipping(family, what):
    assert_batch_is_the_references_own(family, StagePlan(skip_sets(family)[what]))


@pytest.mark.parametrize(
    ("family", "what"),
    [(f, w) for f in FAMILIES for w in ("attention of layer 0", "attentions", "mixed", "the last layer")],
)
def test_skipping_in_decode_only(family, what):
    """The prompt's keys and values are full depth's; only what is generated is skipped through."""
    plan = StagePlan(skip_sets(family)[what], phase="decode")
    assert_batch_is_the_references_own(family, plan)
    in_both = run(tiny_engine(family), ragged(PROMPTS), StagePlan(plan.skip))
    assert [row.tokens for row in in_both] != [row.tokens for row in run(tiny_engine(family), ragged(PROMPTS), plan)]


def compensated(form):
    """A plan that skips four sub-layers, its random tensors, and what they stand for, written out."""
    skip, generator, width = SkipSet(mhsa=(0, 2), ffn=(1, 3)), torch.Generator().manual_seed(3), 32
    shape = {"scale": (), "affine": (2, width), "lowrank:3": (7, width), "linear": (width + 1, width)}[form]
    tensors, stand_ins = {}, {}
    for kind, layer in (("mhsa", 0), ("mhsa", 2), ("ffn", 1), ("ffn", 3)):
        t = torch.randn(shape, generator=generator) * 0.2 + (1 if form in ("scale", "affine") else 0)
        tensors[f"{kind}.{layer}"] = t
        stand_ins[kind, layer] = {
            "scale": lambda x, t=t: x * t,
            "affine": lambda x, t=t: t[0] * x + t[1],
            "lowrank:3": lambda x, t=t: x + x @ t[:3].T @ t[3:6] + t[6],
            "linear": lambda x, t=t: x + x @ t[:-1] + t[-1],
        }[form]
    return skip, tensors, stand_ins


@pytest.mark.parametrize("phase", ["both", "decode"])
@pytest.mark.parametrize(
    ("family", "form"),
    [
        *((family, "scale") for family in FAMILIES),
        *((f, c) for f in ("qwen2", "gemma2") for c in ("affine", "lowrank:3", "linear")),
    ],
)
def test_what_stands_in_for_a_skipped_sublayer(family, form, phase):
    skip, tensors, stand_ins = compensated(form)
    plan = StagePlan(skip, phase=phase, compensation=form, tensors=tensors)
    assert_batch_is_the_references_own(family, plan, stand_ins)
    dropped = run(tiny_engine(family), ragged(PROMPTS), StagePlan(skip, phase=phase))
    assert [row.tokens for row in dropped] != [row.tokens for row in run(tiny_engine(family), ragged(PROMPTS), plan)]


@families
def test_tuned_projections_are_the_models_with_those_weights(family):
    """Every make of a feed-forward takes a plan's down projections; the model's own stay as they are."""
    generator, skip = torch.Generator().manual_seed(4), SkipSet(mhsa=(1,), ffn=(2,))
    tensors = {f"ffn.{layer}": torch.randn(64, 32, generator=generator) * 0.2 for layer in (0, 3)}
    plan = StagePlan(skip, compensation="tuned", tensors=tensors)
    changed = copy.deepcopy(tiny_model(family))
    for key, weight in tensors.items():
        changed.model.layers[int(key[4:])].mlp.down_proj.weight.copy_(weight.T)
    own = [row.tokens for row in run(tiny_engine(family), ragged(PROMPTS), StagePlan(skip))]
    engines = [Engine(tiny_model(family), Characters(), path) for path in ("host", "static")]
    for engine in (*engines, Oracle(tiny_model(family), Characters())):
        rows = run(engine, ragged(PROMPTS), plan)
        for prompt, row in zip(PROMPTS, rows, strict=True):
            logits = reference_logits(changed, prompt, row.tokens, skip)
            assert logits.argmax(dim=-1).tolist() == list(row.tokens), (family, type(engine))
        assert [row.tokens for row in rows] != own
    assert [row.tokens for row in run(tiny_engine(family), ragged(PROMPTS), StagePlan(skip))] == own


@families
def test_the_reference_is_what_generate_writes(family):
    """The same hooks under transformers' own generate, without a cache: no argument by induction."""
    skip, prompt = SkipSet(mhsa=(0, 3), ffn=(2,)), PROMPTS[2]
    with skipping_by_hooks(tiny_model(family), skip):
        expected = greedy(tiny_model(family), prompt, NEW, use_cache=False)
    assert run(tiny_engine(family), ragged([prompt]), StagePlan(skip))[0].tokens == expected


@families
def test_a_shared_prefix_under_a_skip_set(family):
    head = PROMPTS[1]
    prompts = [head + tail[:length] for tail, length in zip(PROMPTS[3:], (1, 4, 9, 2), strict=False)]
    plan = StagePlan(SkipSet(mhsa=(0, 2), ffn=(1,)))
    requests = [Request(prompt, NEW, group=0) for prompt in prompts]
    for prompt, row in zip(prompts, run(tiny_engine(family), requests, plan), strict=True):
        assert_is_the_references_own(family, prompt, row.tokens, plan)


@families
def test_these_tests_can_fail(family):
    """Dropping any one sub-layer changes the text of at least 90 % of the prompts."""
    full = [row.tokens for row in run(tiny_engine(family), ragged(PROMPTS))]
    for sublayer in SUBLAYERS:
        rows = run(tiny_engine(family), ragged(PROMPTS), StagePlan(SkipSet.of([sublayer])))
        changed = sum(row.tokens != tokens for row, tokens in zip(rows, full, strict=True))
        assert changed >= 0.9 * len(PROMPTS), (sublayer, changed)


# --- the two bugs that a shared Hugging Face cache makes without an error (its length is read off layer 0) ---


def test_positions_are_right_without_layer_0s_attention():
    """Read off layer 0's keys, the length stays 0 for ever: every step is then taken for position 0."""
    engine, plan = tiny_engine("qwen2"), StagePlan(SkipSet(mhsa=(0,)))
    prompt = PROMPTS[3]
    cache, _ = engine.runner.prefix(prompt, plan)
    assert cache.positions[:, : len(prompt)].tolist() == [list(range(len(prompt)))]
    tokens = run(engine, ragged([prompt]), plan)[0].tokens
    assert_is_the_references_own("qwen2", prompt, tokens, plan)
    taken_for_0 = wrong_positions("qwen2", prompt, tokens, plan.skip)
    assert taken_for_0 != list(tokens)  # the bug would show


def wrong_positions(family, prompt, tokens, skip):
    """What the reference would choose if each generated token stood at position 0."""
    ids = torch.tensor([[*prompt, *tokens]])
    positions = torch.tensor([[*range(len(prompt)), *[0] * len(tokens)]])
    with skipping_by_hooks(tiny_model(family), skip), torch.inference_mode():
        logits = tiny_model(family)(ids, position_ids=positions, use_cache=False).logits[0]
    return logits[len(prompt) - 1 : -1].argmax(dim=-1).tolist()


def test_a_layer_skipped_in_one_stage_is_whole_in_the_next():
    """Stage after stage from its own prefill: no layer meets the short cache an earlier stage left."""
    model = staged_model().model
    skips = {"recall": SkipSet(mhsa=(0, 2)), "analyze": SkipSet(mhsa=(1,), ffn=(0,)), "summarize": SkipSet()}
    answering = contestant(Plan({name: StagePlan(skip) for name, skip in skips.items()}))
    question = some_questions(3)[2]
    for timed in (False, True):
        trace = answering.answer([question], timed=timed)[0]
        outputs = {}
        for stage, traced in zip(PIPELINE.stages, trace.stages, strict=True):
            for prompt, text in zip(stage.prompts(question, outputs), traced.texts, strict=True):
                with skipping_by_hooks(model, skips[stage.name]):
                    tokens = greedy(model, encode(prompt), stage.max_new_tokens, use_cache=False)
                assert text == answering.engine.engine.tokenizer.decode(tokens).strip()
            outputs[stage.name] = list(traced.texts) if stage.per_option else traced.texts[0]


# --- what is skipped costs nothing ---


@pytest.fixture
def calls(monkeypatch):
    """Counts passes through each feed-forward, and through each attention: it asks where its keys and values are."""
    counted, layer = {"mhsa": [0] * LAYERS, "ffn": [0] * LAYERS}, KVCache.layer

    def watched(family):
        engine = Engine(tiny_model(family), Characters())
        for name, step in engine.lean.sublayers.items():
            if name[0] == "ffn":
                engine.lean.sublayers[name] = counting(step, name[1])
        return engine, counted

    def counting(step, index):
        def run(stream, context):
            counted["ffn"][index] += 1
            return step(stream, context)

        return run

    def spy(self, heads, dtype):
        counted["mhsa"][heads.layer] += 1
        return layer(self, heads, dtype)

    monkeypatch.setattr(KVCache, "layer", spy)
    return watched


@families
def test_a_skipped_sublayer_is_not_called_and_stores_nothing(family, calls):
    engine, counted = calls(family)
    run(engine, ragged(PROMPTS[:1], limit=4), StagePlan(SkipSet(mhsa=(0, 3), ffn=(1,))))
    passes = 4  # one prefill, whose logits give the first token, and three steps
    assert counted["mhsa"] == [0, passes, passes, 0]
    assert counted["ffn"] == [passes, 0, passes, passes]


def test_in_decode_only_a_skipped_sublayer_runs_once_for_the_prompt(calls):
    engine, counted = calls("llama")
    plan = StagePlan(SkipSet(mhsa=(0,), ffn=(1,)), phase="decode")
    run(engine, ragged(PROMPTS[:1], limit=4), plan)
    assert counted["mhsa"] == [1, 4, 4, 4]
    assert counted["ffn"] == [4, 1, 4, 4]


def test_a_skipped_attention_holds_no_memory():
    full, skipping = (
        tiny_engine("llama").runner.prefix(PROMPTS[0], StagePlan(skip))[0] for skip in (SkipSet(), SkipSet(mhsa=(0, 2)))
    )
    assert skipping.nbytes == full.nbytes / 2 > 0


# --- what stands in is made once ---


@pytest.mark.parametrize("path", ["host", "static"])
def test_a_plans_stand_ins_are_made_once_and_go_with_it(path, monkeypatch):
    """Not in every generation, which the clock would count; plans of the same tensors share them."""
    made = []
    real = lean.stand_in
    monkeypatch.setattr(lean, "stand_in", lambda form, tensor: made.append(form) or real(form, tensor))
    engine = Engine(tiny_model("qwen2"), Characters(), path)
    skip, tensors, _ = compensated("linear")
    plan = StagePlan(skip, compensation="linear", tensors=tensors)
    for repeated in (plan, replace(plan, exit=ExitRule()), replace(plan, phase="decode"), plan):
        run(engine, ragged(PROMPTS[:2]), repeated)
        run(engine, ragged(PROMPTS[:1]), repeated)
    assert made == ["linear"] * len(tensors)
    other = {name: tensor.clone() for name, tensor in tensors.items()}
    run(engine, ragged(PROMPTS[:1]), replace(plan, tensors=other))
    assert len(made) == 2 * len(tensors)


@torch.inference_mode()
@pytest.mark.parametrize("form", ["scale", "affine", "lowrank:3", "linear"])
def test_nothing_is_kept_of_plans_that_are_gone(form):
    engine = tiny_engine("qwen2")
    skip, tensors, _ = compensated(form)
    plan = StagePlan(skip, compensation=form, tensors=tensors)
    run(engine, ragged(PROMPTS[:1]), plan)
    kept = [weakref.ref(tensor) for tensor in tensors.values()]
    del plan, tensors, _
    gc.collect()
    assert [reference() for reference in kept] == [None] * len(kept)
