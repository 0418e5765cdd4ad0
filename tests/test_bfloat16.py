"""bfloat16 weights in panels: a matrix product is one, and what families write with them is float32's or as good.

On a processor without AVX2 there is nothing to test here.
"""

import copy

import pytest
import torch
from tiny import FAMILIES, Characters, random_model, random_prompts, reference_logits

from litestage.decoder import bfloat16, packed, panels
from litestage.engine import Decoding, Engine, Request
from litestage.plan import SkipSet, StagePlan

IN_PANELS = panels.runs(torch.empty(2, 2, dtype=torch.bfloat16))
needs_panels = pytest.mark.skipif(not IN_PANELS, reason="no AVX2, or no C compiler")


@needs_panels
@pytest.mark.parametrize("tokens", [*range(1, 21), 25, 40])
@pytest.mark.parametrize(("inputs", "outputs"), [(96, 64), (34, 83)])
def test_a_product_in_panels_is_the_matrix_product(tokens, inputs, outputs):
    torch.manual_seed(tokens)
    weight, bias = torch.randn(outputs, inputs).bfloat16(), torch.randn(outputs).bfloat16()
    x, add = torch.randn(tokens, inputs).bfloat16(), torch.randn(tokens, outputs).bfloat16()
    laid = panels.Panels(weight, bias)
    assert torch.equal(laid.weight(), weight)
    exact = x.double() @ weight.double().T + bias.double() + add.double()
    torch.testing.assert_close(laid(x, add).double(), exact, rtol=2**-8, atol=1e-4)  # bfloat16 has 8 bits
    assert torch.equal(laid(x), torch.cat([laid(row) for row in x.split(1)]))  # whatever runs beside a token
    torch.testing.assert_close(laid(x), (exact - add.double()).bfloat16(), rtol=2**-7, atol=1e-2)


@needs_panels
def test_weights_that_follow_each_other_in_memory_do_not_touch():
    weights = [torch.full((70, 6), float(value)).bfloat16() for value in range(3)]
    laid = [panels.Panels(weight, None) for weight in weights]
    assert all(torch.equal(one.weight(), weight) for one, weight in zip(laid, weights, strict=True))
    memory = panels.HugePages()
    with torch.inference_mode():
        before, large = memory.take(33), memory.take(40 * 2**20)
    assert len(large) == 40 * 2**20
    assert large.data_ptr() % 64 == 0
    after = memory.take(5).fill_(1)  # as if nothing had been taken in inference mode
    assert len({before.data_ptr(), large.data_ptr(), after.data_ptr()}) == 3
    assert after.data_ptr() % 64 == 0


@needs_panels
@pytest.mark.parametrize(
    "family", ["llama", "mistral", "qwen3", "phi3", "gemma2", "smollm3", "gemma3", "granite", "qwen3_5"]
)
def test_every_token_is_float32s_best_but_for_rounding(family):
    """Rows that share a prompt, rows that do not, a skip set: a wrong mask, turn or norm chooses far worse tokens."""
    best_but_for_rounding(FAMILIES[family].config)


@needs_panels
def test_so_it_is_with_biases_on_every_projection():
    config = copy.deepcopy(FAMILIES["llama"].config)
    config.attention_bias = config.mlp_bias = True
    best_but_for_rounding(config, std=0.2)


def best_but_for_rounding(config, std=0.1):
    model = random_model(config, std).bfloat16()
    exact = copy.deepcopy(model).float()
    engine = Engine(model, Characters())
    engine.eos = (-1,)
    shared, alone, long = random_prompts([9, 14, 30])
    prompts = [shared, (*shared, 7, 8), (*shared, 9), alone, long]
    for skip in (SkipSet(), SkipSet(mhsa=(0,), ffn=(2,))):
        batch = engine.generate([Request(prompt, 10) for prompt in prompts], StagePlan(skip), Decoding())
        for prompt, row in zip(prompts, batch.generations, strict=True):
            logits = reference_logits(exact, prompt, row.tokens, skip)
            short = logits.max(dim=1).values - logits.gather(1, torch.tensor(row.tokens)[:, None])[:, 0]
            assert short.max() < 0.1 * logits.std(), (config.model_type, prompt)
    assert engine.lean.counts


def test_without_a_compiler_there_are_no_panels(monkeypatch):
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert panels.library.__wrapped__() is None
    monkeypatch.setattr(panels, "library", lambda: None)
    linear = torch.nn.Sequential(torch.nn.Linear(256, 512, dtype=torch.bfloat16))
    packed.pack(linear)  # by oneDNN, where it has bfloat16
    assert getattr(linear[0], "panels", None) is None
    assert bfloat16._panels([linear[0]]) is None
