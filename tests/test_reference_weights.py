"""The shipped weights are small, in 16 bits, and answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from litestage.menagerie import load_split
from litestage.stages import load_pipeline
from litestage.training.evaluate import evaluate

REFERENCE = Path(__file__).parent.parent / "litestage" / "reference"
PIPELINE = load_pipeline("recall_analyze_summarize")


@pytest.mark.parametrize(("depth", "layers"), [("full", 12), ("half", 6)])
def test_the_shipped_weights_are_16_bit_and_at_most_8_megabytes(depth: str, layers: int) -> None:
    file = REFERENCE / depth / "model.safetensors"
    assert file.stat().st_size <= 8_000_000
    with safe_open(file, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} <= {"BF16", "F16"}  # noqa: SIM118
    model = AutoModelForCausalLM.from_pretrained(REFERENCE / depth, trust_remote_code=False)
    assert model.config.num_hidden_layers == layers
    assert model.config.max_position_embeddings >= 2048


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["menagerie", "menagerie_five", "menagerie_yesno"])
def test_the_shipped_full_model_answers_at_least_95_percent_of_a_test_sample(variant: str) -> None:
    folder = REFERENCE / "full"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    assert evaluate(model, tokenizer, load_split(variant, "test")[:120], PIPELINE).accuracy >= 0.95
