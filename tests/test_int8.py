"""Weights in 8 bits: what they lose is what 8 bits lose, tokens do not depend on how they are computed, and a result
says that they ran."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, Characters, random_model, random_prompts, reference_logits
from transformers import LlamaConfig

from litestage.comparison.compare import compare
from litestage.config import load_config
from litestage.decoder import load_model, packed, panels
from litestage.drafts.lookup import Phrases
from litestage.engine import Decoding, Engine, Request
from litestage.environment import environment
from litestage.errors import LiteStageError
from litestage.plan import SkipSet, StagePlan
from litestage.plan.draft import Draft
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.store.identity import identity

needs_int8 = pytest.mark.skipif(packed.why_not_int8() is not None, reason=f"{packed.why_not_int8()}")
WIDE = LlamaConfig(**{**FAMILIES["llama"].config.to_dict(), "hidden_size": 64, "head_dim": 16})
"""Heads as wide as attention in C wants them."""
SKIPS = (SkipSet(), SkipSet(mhsa=(0,), ffn=(2,)))


def held_by(laid):
    """The weight [out, in] that the bytes of panels stand for, in float64."""
    scales, pairs = laid.panels[..., :32].contiguous().view(torch.bfloat16), laid.panels[..., 32:].contiguous()
    whole = pairs.view(torch.int8).unflatten(2, (-1, 16, panels.run())).transpose(2, 3).flatten(3).double()
    rows = (whole * scales.double()[..., None]).transpose(1, 2).flatten(2).flatten(0, 1)
    return rows[: laid.outputs, : laid.inputs]


def by_blocks(weight):
    """By block of 32 inputs, the largest weight, for each of its inputs: [out, in]."""
    blocks = torch.nn.functional.pad(weight.double(), (0, -weight.shape[1] % 32)).unflatten(1, (-1, 32))
    return blocks.abs().amax(-1, keepdim=True).expand(-1, -1, 32).flatten(1)[:, : weight.shape[1]]


@needs_int8
@pytest.mark.parametrize("tokens", [*range(1, 21), 40])
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 64), (34, 83), (2050, 70)])
def test_a_product_in_int8_is_that_of_the_weight_it_holds(tokens, inputs, outputs):
    torch.manual_seed(tokens)
    weight, bias = torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs).bfloat16()
    x, add = torch.randn(tokens, inputs).bfloat16(), torch.randn(tokens, outputs).bfloat16()
    laid = panels.Panels(weight, bias, int8=True)
    exact = x.double() @ held_by(laid).T + bias.double() + add.double()
    torch.testing.assert_close(laid(x, add).double(), exact, rtol=2**-8, atol=2e-4 * inputs**0.5)  # inputs have 16 bits


@needs_int8
def test_int8_errs_as_whole_numbers_up_to_127_do():
    torch.manual_seed(0)
    weight = (torch.randn(83, 200) * torch.rand(83, 1)).bfloat16()
    weight[3], weight[4, :32] = 0, 0
    largest, exact = by_blocks(weight), weight.double()
    error = held_by(panels.Panels(weight, None, int8=True)) - exact
    assert (error.abs() <= largest / 127 / 2 * (1 + 2**-7)).all()  # the scale is rounded up to bfloat16
    scale = (largest / 127).clamp(min=1e-30)
    assert error.norm() < 1.02 * ((exact / scale).round() * scale - exact).norm()
    assert 0.004 < error.norm() / exact.norm() < 0.008


@needs_int8
def test_a_copy_of_int8_weights_holds_the_same():
    laid = panels.Panels(torch.randn(70, 34).bfloat16(), torch.randn(70).bfloat16(), int8=True)
    again, x = copy.deepcopy(laid), torch.randn(3, 34).bfloat16()
    assert torch.equal(again.panels, laid.panels)
    assert again.panels.data_ptr() != laid.panels.data_ptr()
    assert torch.equal(again(x), laid(x))


@needs_int8
@pytest.mark.parametrize("worst", [float("nan"), float("inf")])
def test_an_input_that_is_no_number_gives_its_token_none_and_the_others_theirs(worst):
    laid = panels.Panels(torch.randn(64, 64).bfloat16(), None, int8=True)
    x = torch.randn(3, 64).bfloat16()
    good = laid(x)
    x[1, 5] = worst
    made = laid(x)
    assert not made[1].isfinite().any()
    assert torch.equal(made[[0, 2]], good[[0, 2]])


@needs_int8
@pytest.mark.parametrize("int8", [False, True])
def test_a_tokens_product_does_not_depend_on_the_tokens_beside_it(int8):
    laid = panels.Panels(torch.randn(100, 90).bfloat16(), None, int8)
    x = torch.randn(40, 90).bfloat16()
    whole = laid(x)
    for first, tokens in ((0, 1), (1, 2), (3, 3), (6, 4), (10, 5), (15, 6), (21, 12)):
        assert torch.equal(laid(x[first : first + tokens]), whole[first : first + tokens])


def engine_in_int8(config):
    """An engine, and the same model in float32 with the weights that 8 bits hold."""
    model = random_model(config, 0.1).bfloat16()
    exact = copy.deepcopy(model).float()
    packed.in_int8(model)
    for name, module in model.named_modules():
        if isinstance(module, packed.PackedLinear):
            assert module.int8
            exact.get_submodule(name).weight.data = held_by(module.panels).float()
    engine = Engine(model, Characters())
    engine.eos = (-1,)
    return engine, exact


@needs_int8
@pytest.mark.parametrize("family", ["wide", "llama", "qwen3", "phi3", "gemma2", "olmo2", "granite"])
def test_every_token_is_float32s_best_but_for_rounding(family):
    engine, exact = engine_in_int8(WIDE if family == "wide" else FAMILIES[family].config)
    shared, alone, long = random_prompts([9, 14, 30])
    prompts = [shared, (*shared, 7, 8), (*shared, 9), alone, long]
    for skip in SKIPS:
        batch = engine.generate([Request(prompt, 10) for prompt in prompts], StagePlan(skip), Decoding())
        for prompt, row in zip(prompts, batch.generations, strict=True):
            logits = reference_logits(exact, prompt, row.tokens, skip)
            short = logits.max(dim=1).values - logits.gather(1, torch.tensor(row.tokens)[:, None])[:, 0]
            assert short.max() < 0.1 * logits.std(), (family, prompt)


@needs_int8
@pytest.mark.parametrize("skip", SKIPS, ids=["full", "skipping"])
def test_drafts_change_no_token_in_int8(skip):
    engine, _ = engine_in_int8(WIDE)
    plan, prompts = StagePlan(skip), random_prompts([9, 14, 12], seed=3)
    requests = [Request(prompt, 12) for prompt in prompts]
    plain = [engine.generate([each], plan, Decoding(), confidences=True).generations[0] for each in requests]
    outputs = [row.tokens for row in plain]
    misled = [(*row[:5], 7, *row[6:]) for row in outputs]
    for phrases in (Phrases.of(prompts, outputs), Phrases.of(prompts, misled)):
        drafting = replace(plan, draft=Draft(phrases=phrases, least=0, length=4, sources=("calibration",)))
        for request, row in zip(requests, plain, strict=True):
            (drafted,) = engine.generate([request], drafting, Decoding(), confidences=True).generations
            assert drafted.tokens == row.tokens
            assert drafted.confidences == row.confidences


@needs_int8
def test_int8_is_part_of_a_results_identity():
    model = random_model(WIDE).bfloat16()
    plain = Engine(copy.deepcopy(model), Characters())
    packed.in_int8(model)
    quantised = Engine(model, Characters())
    assert "weights_dtype" not in environment(plain)
    assert environment(quantised)["weights_dtype"] == "int8"
    ours, theirs = (identity(engine, "same", "same") for engine in (quantised, plain))
    assert ours["weights_dtype"] == "int8"
    assert {**ours, "weights_dtype": None} == {**theirs, "weights_dtype": None}


@needs_int8
def test_int8_is_decided_at_loading_and_means_bfloat16():
    loaded = load_model("reference", weights="int8", device="cpu")
    assert loaded.fingerprint == load_model("reference", dtype="bfloat16", device="cpu").fingerprint
    engine = Engine(loaded.model, loaded.tokenizer)
    assert (engine.decoder.int8, engine.decoder.dtype) == (True, torch.bfloat16)
    session = Session.open("reference", weights="int8", device="cpu")
    assert environment(session.engine)["weights_dtype"] == "int8"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "int4"}, "weights is 'int4'"),
        ({"weights": "int8", "dtype": "float32"}, "weights=int8 runs in bfloat16, and dtype is 'float32'"),
    ],
)
def test_where_int8_cannot_run_it_is_one_sentence(options, said):
    with pytest.raises(LiteStageError, match=said):
        load_model("reference", device="cpu", **options)


def test_without_a_compiler_int8_is_refused(monkeypatch):
    monkeypatch.setattr(panels, "library", lambda: None)
    with pytest.raises(LiteStageError, match="weights=int8 does not run here: "):
        load_model("reference", device="cpu", weights="int8")


@needs_int8
@pytest.mark.slow
def test_a_comparison_has_full_depth_in_int8_as_a_row(tmp_path):
    options = ["task=menagerie", "methods=[full,full-int8]", "questions=6", "latency_questions=2"]
    bench = Workbench.open(load_config([*options, "engine.dtype=bfloat16", f"store={tmp_path / 's'}"]))
    rows = {row["name"]: row for row in compare(bench).results["methods"]}
    assert list(rows) == ["full", "full-int8"]
    assert rows["full-int8"]["model"] == "reference, int8"
    assert "weights in 8 bits" in rows["full-int8"]["note"]
    assert rows["full-int8"]["accuracy"] > 0.5
