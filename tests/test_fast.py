"""The engine writes what its oracle writes, for any plan over many questions, in fewer operations."""

import copy
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from oracle import Oracle, tiny_oracle
from test_parity import PROMPTS, families, ragged, run
from test_skip_parity import compensated
from tiny import FAMILIES, LAYERS, Characters, random_model, random_prompts, tiny_engine, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode

from litestage.decoder import lean, native
from litestage.engine import Decoding, Detokenise, Engine, Request, scheduler
from litestage.engine.attention import ForwardContext
from litestage.engine.cache import KVCache
from litestage.plan import ExitRule, SkipSet, StagePlan
from litestage.session import Session

SUBLAYERS = [(kind, layer) for layer in range(LAYERS) for kind in ("mhsa", "ffn")]


def fans(count, seed=7):
    """Questions whose rows share a prompt, one to five rows each, of many lengths; limits of their own."""
    rng, requests = random.Random(seed), []
    for group in range(count):
        head = random_prompts((rng.randrange(3, 40),), seed=100 * seed + group)[0]
        for row in range(rng.randrange(1, 6)):
            tail = random_prompts((rng.randrange(1, 9),), seed=1000 * seed + 10 * group + row)[0]
            requests.append(Request(head + tail, rng.randrange(1, 14), group=group))
    return requests


def outcome(generations):
    return [(row.tokens, row.text, row.stop) for row in generations]


@families
def test_random_plans_over_many_questions(family, monkeypatch):
    """More rows than are decoded together: lanes are refilled, rows leave at different steps."""
    monkeypatch.setattr(scheduler, "MAX_ROWS", 12)
    engine, oracle, rng = tiny_engine(family), tiny_oracle(family), random.Random(family)
    requests = fans(14)
    for phase in ("both", "decode"):
        skip = SkipSet.of(rng.sample(SUBLAYERS, rng.randrange(1, 5)))
        plan = StagePlan(skip, phase=phase, exit=ExitRule(threshold=0.6, window=3))
        ours = engine.generate(requests, plan, Decoding(stop=("k",)), confidences=True).generations
        theirs = oracle.generate(requests, plan, Decoding(stop=("k",)), confidences=True).generations
        assert outcome(ours) == outcome(theirs)
        assert len({row.stop for row in ours}) > 1
        for one, two in zip(ours, theirs, strict=True):
            assert one.confidences == pytest.approx(two.confidences, abs=1e-4)


@families
@pytest.mark.parametrize("fused_bytes", [0, 2**40], ids=["shared", "fused"])
def test_both_makes_of_a_sublayer_write_the_same(family, fused_bytes, monkeypatch):
    monkeypatch.setattr(lean, "FUSED_BYTES", fused_bytes)
    plan = StagePlan(SkipSet(mhsa=(1,), ffn=(0,)))
    ours = run(Engine(tiny_model(family), Characters()), ragged(PROMPTS), plan)
    assert outcome(ours) == outcome(run(tiny_oracle(family), ragged(PROMPTS), plan))


@families
def test_weights_side_by_side_as_on_a_gpu_are_held_once_and_write_the_same(family, monkeypatch):
    monkeypatch.setattr(lean, "FUSED_BYTES", 0)
    monkeypatch.setattr(lean.LeanDecoder, "joins", property(lambda self: True, lambda self, value: None), raising=False)
    model, plan = copy.deepcopy(tiny_model(family)), StagePlan(SkipSet(mhsa=(1,), ffn=(0,)))
    before = sum(parameter.nbytes for parameter in model.parameters())
    theirs = run(tiny_oracle(family), ragged(PROMPTS), plan)
    assert outcome(run(Engine(model, Characters()), ragged(PROMPTS), plan)) == outcome(theirs)
    storages = {parameter.untyped_storage().data_ptr(): parameter.untyped_storage() for parameter in model.parameters()}
    assert sum(storage.nbytes() for storage in storages.values()) == before
    # the model's own modules go on with the same weights
    assert outcome(run(Oracle(model, Characters()), ragged(PROMPTS), plan)) == outcome(theirs)


@pytest.mark.parametrize("form", ["affine", "linear"])
def test_compensated_rows_that_share_a_lane(form):
    skip, tensors, _ = compensated(form)
    plan = StagePlan(skip, compensation=form, tensors=tensors)
    requests = fans(5)
    ours, theirs = run(tiny_engine("qwen2"), requests, plan), run(tiny_oracle("qwen2"), requests, plan)
    assert outcome(ours) == outcome(theirs)


def test_drafts_of_rows_that_share_a_lane():
    """Right, half right and wrong drafts side by side: verified, forgotten where they were wrong, and decoded on."""
    engine, requests = tiny_engine("mistral"), fans(6)
    plain = run(tiny_oracle("mistral"), requests)
    noise = random_prompts((20,) * len(requests), seed=3)
    drafts = [(row.tokens, (*row.tokens[:3], *noise[i]), noise[i], ())[i % 4] for i, row in enumerate(plain)]
    drafted = [replace(request, draft=draft) for request, draft in zip(requests, drafts, strict=True)]
    assert outcome(run(engine, drafted)) == outcome(plain)


def test_a_half_right_draft_leaves_only_its_rest_to_be_decoded(monkeypatch):
    engine = tiny_engine("llama")
    tokens = run(engine, ragged(PROMPTS[:1]))[0].tokens
    passes = []
    embed = engine.decoder.embed
    monkeypatch.setattr(engine.decoder, "embed", lambda ids: passes.append(len(ids)) or embed(ids))
    assert run(engine, [Request(PROMPTS[0], 16, draft=(*tokens[:8], *tokens[:8]))])[0].tokens == tokens
    assert passes == [5, 15, *[1] * 7]  # the prompt, the draft, what is left


def test_sampling_draws_from_each_rows_own_stream():
    requests = [replace(request, stream=str(row)) for row, request in enumerate(fans(4))]
    drawn = [
        one.generate(requests, StagePlan(), Decoding(temperature=0.8, seed=5)).generations
        for one in (tiny_engine("llama"), tiny_oracle("llama"))
    ]
    assert outcome(drawn[0]) == outcome(drawn[1])


# --- a few tokens in C ---


@families
def test_without_a_compiler_pytorch_runs_the_same_sublayers(family, monkeypatch):
    requests, plan = [Request(PROMPTS[1] + (9 + row,), 12) for row in range(3)], StagePlan(SkipSet(mhsa=(1,), ffn=(0,)))
    in_c, few = Engine(tiny_model(family), Characters()), []
    with monkeypatch.context() as patch:
        patch.setattr(KVCache, "_few", lambda *asked, made=KVCache._few: few.append(1) or made(*asked))
        ours = in_c.generate(requests, plan, Decoding(), confidences=True).generations
    assert few
    monkeypatch.setattr(native, "library", lambda: None)
    theirs = Engine(tiny_model(family), Characters()).generate(requests, plan, Decoding(), confidences=True).generations
    assert outcome(ours) == outcome(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert one.confidences == pytest.approx(two.confidences, abs=1e-5)


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"])
def test_a_compiler_that_fails_is_done_without(compiler, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    assert native.library.__wrapped__() is None


def test_loading_it_leaves_tiny_numbers_as_they_are():
    """Linked with -ffast-math it would have the whole process round them to zero."""
    assert native.library.__wrapped__() is not None
    assert torch.tensor([1e-39]).mul(0.5).item() > 0


@families
def test_c_has_a_word_for_every_sublayer_of_every_family(family):
    steps = Engine(tiny_model(family), Characters()).lean.sublayers
    assert {type(step) for step in steps.values()} == {native.Walk}


@families
def test_a_rows_logits_in_c_are_the_same_whatever_runs_beside_it(family):
    """To the last bit, in lanes of their own: decoded alone, beside one other, beside many."""
    engine, prompts = Engine(tiny_model(family), Characters()), random_prompts((11, 6, 9, 14, 8, 12, 7, 13, 10), seed=4)

    def first(count):
        return engine.generate(ragged(prompts[:count], 8), StagePlan(), Decoding(), confidences=True).generations[0]

    alone = first(1)
    for count in (2, 4, len(prompts)):
        beside = first(count)
        assert (beside.tokens, beside.confidences) == (alone.tokens, alone.confidences)


def test_a_sublayer_that_c_has_no_word_for_runs_between_those_that_it_has(monkeypatch):
    """Walks end before it and go on behind it; tokens are those of a model whose every sub-layer is in PyTorch."""
    engine, passed = Engine(tiny_model("llama"), Characters()), []
    whole = engine.runner.path(StagePlan(), "decode")
    assert [len(walk.steps) for walk in whole] == [2 * LAYERS - 1, 1]  # apart: what follows the last attention
    for name in (("ffn", 1), ("mhsa", 2)):
        (step,) = engine.lean.sublayers[name].steps
        engine.lean.sublayers[name] = lambda stream, attending, step=step: passed.append(1) or step(stream, attending)
    ours = run(engine, ragged(PROMPTS))
    assert passed
    monkeypatch.setattr(native, "library", lambda: None)
    assert outcome(ours) == outcome(run(Engine(tiny_model("llama"), Characters()), ragged(PROMPTS)))


# --- work that nobody would read ---


def counting(step, name, lengths):
    def run(stream, attending):
        lengths[name] = len(stream)
        return step(stream, attending)

    return run


@pytest.mark.parametrize("skip", [SkipSet(), SkipSet(mhsa=(3,))], ids=["full depth", "without the last attention"])
def test_behind_the_last_attention_only_what_is_read_goes_on(skip):
    """Of a prompt, the tokens from which each row's first one is chosen; a fan's rows share the others."""
    engine, lengths = Engine(tiny_model("llama"), Characters()), {}
    for name, step in engine.lean.sublayers.items():
        if name[0] == "ffn":
            engine.lean.sublayers[name] = counting(step, name[1], lengths)
    run(engine, [Request((*PROMPTS[1], 9), 1), Request((*PROMPTS[1], 8), 1)], StagePlan(skip))
    behind = 3 if skip == SkipSet() else 2
    everything = len(PROMPTS[1]) + 2
    assert lengths == {layer: 2 if layer >= behind else everything for layer in range(LAYERS)}


def test_most_tokens_cannot_end_a_stop_string_and_are_not_decoded_again():
    tokenizer = Session.open("reference", dtype="float32", device="cpu").loaded.tokenizer
    written = "Where do turtles live? Turtles, owls and eels (A) in rivers, é 日 \U0001f980 \n the end. "
    tokens = tokenizer(written)["input_ids"]
    text, decode, calls = tokenizer.decode(tokens), tokenizer.decode, []
    spy = SimpleNamespace(decode=lambda ids, **options: calls.append(len(ids)) or decode(ids, **options))
    alone: dict[int, str] = {}
    for stop in (text[9:12], text[20:26], text[30:32], text[-6:-3], "\n", ". ", " ", "\U0001f980", "日 ", "nowhere"):
        detokenise = Detokenise(spy, (stop,), alone)
        first = next((n for n in range(1, len(tokens)) if stop in decode(tokens[:n])), None)
        assert next((n for n in range(1, len(tokens)) if detokenise.found(tokens[:n])), None) == first
    calls.clear()
    assert not any(Detokenise(spy, ("qZ",), alone).found(tokens[:n]) for n in range(1, len(tokens)))
    assert len(calls) < len(tokens) / 3


# --- packed weights ---


def big_enough_to_pack(dtype):
    config = tiny_model("qwen2").config.__class__(
        **{**FAMILIES["qwen2"].config.to_dict(), "hidden_size": 256, "intermediate_size": 1024, "layer_types": None}
    )
    return random_model(config, std=0.05).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_replace_the_usual_ones_and_write_the_same(dtype, monkeypatch):
    monkeypatch.setattr(lean, "FUSED_BYTES", 0)
    model = big_enough_to_pack(dtype)
    plain = run(Oracle(big_enough_to_pack(dtype), Characters()), ragged(PROMPTS))
    ours = run(Engine(model, Characters()), ragged(PROMPTS))
    same = [a == b for one, two in zip(ours, plain, strict=True) for a, b in zip(one.tokens, two.tokens, strict=True)]
    assert all(same) if dtype == torch.float32 else sum(same) > 0.3 * len(same)  # a bfloat16 tie moves all that follows
    packed = {type(model.model.layers[0].mlp.up_proj).__name__, type(model.model.layers[1].mlp.down_proj).__name__}
    assert packed == {"PackedLinear"}
    assert all(parameter.numel() < 2**17 for parameter in model.model.layers.parameters())  # nothing is held twice
    # the model's own modules go on with the packed weights
    again = run(Oracle(model, Characters()), ragged(PROMPTS[:2]))
    assert again[0].tokens[:4] == plain[0].tokens[:4]


# --- the guard against slowing down: it counts, it does not time ---


class Operations(TorchDispatchMode):
    """Counts operator calls; views, which move nothing, by themselves."""

    def __init__(self):
        super().__init__()
        self.work = self.views = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.is_view:
            self.views += 1
        else:
            self.work += 1
        return func(*args, **(kwargs or {}))


def per_token(engine, rows, plan=None):
    """Operator calls of one decode step: what four more tokens take, by four."""
    engine, counts = copy.copy(engine), []
    engine.eos = (-1,)
    run(engine, ragged(PROMPTS[:1]), plan)  # the first run makes the lean sub-layers
    for limit in (6, 10):
        requests = [Request(PROMPTS[1] + (9 + row,), limit) for row in range(rows)]
        with Operations() as counted:
            generations = run(engine, requests, plan)
        assert {len(row.tokens) for row in generations} == {limit}
        counts.append((counted.work, counted.views))
    return [(late - early) / 4 for early, late in zip(*counts, strict=True)]


@pytest.mark.parametrize("in_c", [True, False], ids=["in C", "in PyTorch"])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_decode_step_is_few_operations(rows, in_c, monkeypatch):
    if not in_c:
        monkeypatch.setattr(native, "library", lambda: None)
    engine = Engine(tiny_model("llama"), Characters())
    work, _ = per_token(engine, rows)
    skipped, _ = per_token(engine, rows, StagePlan(SkipSet(mhsa=(0, 1), ffn=(1, 2))))
    plain, _ = per_token(tiny_oracle("llama"), 1)
    mhsa, ffn = (0, 0) if in_c else (8, 7)  # in C all of them are one call
    assert work <= (mhsa + ffn) * LAYERS + (17 if rows == 1 else 25)
    assert work - skipped == 2 * mhsa + 2 * ffn  # what is skipped costs nothing
    assert work <= plain / 2


def test_a_decode_steps_memory_does_not_grow(monkeypatch):
    """One tensor per layer, allocated once, however many steps; reads and writes go to it."""
    places, layer = set(), KVCache.layer

    def spy(self, heads, dtype):
        kept = layer(self, heads, dtype)
        places.add((heads.layer, kept.whole.data_ptr(), kept.whole.nbytes))
        return kept

    monkeypatch.setattr(KVCache, "layer", spy)
    run(tiny_engine("llama"), [Request(PROMPTS[1] + (9 + row,), 50) for row in range(3)])
    assert len(places) == LAYERS


def test_a_long_prompt_needs_no_mask_of_its_square(monkeypatch):
    """Grouped queries over thousands of tokens: causality alone, or one mask for all heads of a tree."""
    largest, masked = [0], ForwardContext._mask_of

    def spy(self, *asked):
        mask = masked(self, *asked)
        largest[0] = max(largest[0], mask.numel())
        return mask

    monkeypatch.setattr(ForwardContext, "_mask_of", spy)
    monkeypatch.setattr(native, "library", lambda: None)  # C makes none at all
    engine, (prompt,) = Engine(tiny_model("llama"), Characters()), random_prompts((240,))
    run(engine, [Request(prompt, 1)])
    assert largest == [0]
    run(engine, [Request((*prompt, 9), 1, group=0), Request((*prompt, 8), 1, group=0)])
    assert largest[0] == 242 * 242  # once, not for each of the queries of a key
