"""A full-size shape runs: Qwen2.5-0.5B's configuration with random bf16 weights and the real Qwen2 tokenizer.

Plumbing and timing only; random weights are never scored.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TOKENIZERS, DATA = os.environ.get("LITESTAGE_TOKENIZERS"), os.environ.get("LITESTAGE_DATA")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TOKENIZERS, reason="LITESTAGE_TOKENIZERS does not name a folder with the Qwen2 tokenizer"),
    pytest.mark.skipif(not DATA, reason="LITESTAGE_DATA does not name a folder with the real data"),
]


@pytest.fixture(scope="module")
def qwen_shape(tmp_path_factory):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

    folder = tmp_path_factory.mktemp("qwen2.5-0.5b-shape")
    config = Qwen2Config(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        tie_word_embeddings=True,
        bos_token_id=151643,
        eos_token_id=151643,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(Path(TOKENIZERS) / "qwen2"), trust_remote_code=False).save_pretrained(folder)
    return folder


def test_obqa_runs_under_a_plan_in_the_real_command(qwen_shape, tmp_path):
    shipped = Path(__file__).parents[1] / "conf" / "pipeline" / "recall_analyze_summarize_fewshot.yaml"
    pipeline = yaml.safe_load(shipped.read_text())
    for stage in pipeline["stages"]:
        stage["max_new_tokens"] = 8  # random weights never stop; timing needs only a few tokens
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(pipeline))
    arguments = f"pretrained={qwen_shape},dtype=bfloat16,plan=uniform:8,pipeline={tmp_path / 'short.yaml'}"
    command = [sys.executable, "-m", "lm_eval", "--model", "litestage", "--model_args", arguments]
    command += ["--tasks", "obqa_multistage", "--limit", "1", "--output_path", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    [path] = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text())["results"]["obqa_multistage"]
    assert results["latency_s,none"] > 0
    assert results["tokens_analyze,none"] == 4 * 8
