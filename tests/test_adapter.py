"""An adapter is merged into its base in float32, whichever way it is named; one that does not fit is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_model

import litestage
from litestage.decoder import load_model, source
from litestage.errors import LiteStageError

PART = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    """Rank 4 on the queries of layer 1, in bfloat16, with its base named."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "layers_to_transform": [1],
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.manual_seed(3)
    narrow, wide = torch.randn(4, 64, dtype=torch.bfloat16), torch.randn(64, 4, dtype=torch.bfloat16)
    save_file({f"{PART}.lora_A.weight": narrow, f"{PART}.lora_B.weight": wide}, folder / "adapter_model.safetensors")
    return folder


def expected(base: str, adapter: Path) -> torch.Tensor:
    """The queries of layer 1 as they should be: ``W + (alpha / r) B A``."""
    parts = load_file(adapter / "adapter_model.safetensors")
    narrow, wide = parts[f"{PART}.lora_A.weight"].float(), parts[f"{PART}.lora_B.weight"].float()
    return load_file(Path(base) / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"] + 2.0 * wide @ narrow


def queries(model, layer: int = 1) -> torch.Tensor:
    return model.model.layers[layer].self_attn.q_proj.weight


def test_it_is_merged_and_changes_the_fingerprint(base, adapter):
    plain, adapted = load_model(base), load_model(base, adapter=str(adapter))
    assert torch.allclose(queries(adapted.model), expected(base, adapter), atol=1e-6)
    assert torch.equal(queries(adapted.model, 0), queries(plain.model, 0))
    assert set(adapted.model.state_dict()) == set(plain.model.state_dict())  # nothing of PEFT is left
    assert adapted.fingerprint != plain.fingerprint
    assert adapted.about == {"fingerprint": adapted.fingerprint, "adapter": str(adapter)}


def test_it_is_merged_in_float32_and_rounded_once(base, adapter):
    merged = queries(load_model(base, adapter=str(adapter), dtype="bfloat16").model)
    assert torch.equal(merged, expected(base, adapter).to(torch.bfloat16))


def test_a_folder_that_is_an_adapter_brings_its_base(base, adapter, tmp_path):
    wanted = load_model(base, adapter=str(adapter)).fingerprint
    assert load_model(str(adapter)).fingerprint == wanted
    shutil.copytree(base, adapter / "beside")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "beside"}))
    assert load_model(str(adapter)).fingerprint == wanted


def test_it_is_the_same_from_every_front_door(base, adapter, tmp_path):
    from litestage.config import load_config
    from litestage.harness.lm import LiteStageLM
    from litestage.session.workbench import Workbench
    from litestage.training.config import ModelConfig
    from litestage.training.run import _model_and_tokenizer

    wanted = load_model(base, adapter=str(adapter)).fingerprint
    assert litestage.load(base, adapter=str(adapter)).session.loaded.fingerprint == wanted
    lm = LiteStageLM(pretrained=base, adapter=str(adapter), device="cpu", store=str(tmp_path / "s.sqlite"))
    info = lm.get_model_info()
    assert (info["model_fingerprint"], info["model_adapter"]) == (wanted, str(adapter))
    config = load_config([f"model.pretrained={base}", f"model.adapter={adapter}", f"store={tmp_path}/s.sqlite"])
    assert config.model.name == f"{base}+adapter"
    assert Workbench.open(config).session.loaded.fingerprint == wanted
    model, _ = _model_and_tokenizer(ModelConfig(pretrained=str(adapter)), {}, torch.float32)
    assert torch.allclose(queries(model), expected(base, adapter), atol=1e-6)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_its_own_tokenizer_comes_first(base, adapter):
    assert load_model(str(adapter)).tokenizer.chat_template is None
    for file in Path(base).glob("tokenizer*"):
        shutil.copy(file, adapter)
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    assert load_model(str(adapter)).tokenizer.chat_template == "{{ messages }}"


def test_one_of_the_embedding_leaves_the_head_that_is_tied_to_it_alone(base, adapter, tmp_path):
    """As PEFT runs it: its matrices stand beside the embedding, and the head is the base's."""
    tied = Path(shutil.copytree(base, tmp_path / "tied"))
    tensors = load_file(tied / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    del tensors["lm_head.weight"]
    save_file(tensors, tied / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    edit(adapter, target_modules=["embed_tokens"], layers_to_transform=None)
    narrow, wide = torch.randn(4, len(embedding)), torch.randn(64, 4)
    part = "base_model.model.model.embed_tokens.lora_embedding_"
    beside = {"base_model.model.model.embed_tokens.base_layer.weight": embedding.clone()}  # as PEFT saves it
    save_file({f"{part}A": narrow, f"{part}B": wide, **beside}, adapter / "adapter_model.safetensors")
    model = load_model(str(tied), adapter=str(adapter)).model
    assert torch.allclose(model.model.embed_tokens.weight, embedding + 2.0 * (wide @ narrow).T, atol=1e-4)
    assert torch.equal(model.lm_head.weight, embedding)


def test_one_that_runs_layers_twice_adds_to_each_its_own(base, adapter):
    """Layers 0 to 3 as 0, 1, 0, 1: PEFT's copies share the weights that the adapter's parts are added to."""
    edit(adapter, layer_replication=[[0, 2], [0, 2]], layers_to_transform=None)
    names = [PART.replace("layers.1", f"layers.{layer}") for layer in range(4)]
    parts = {f"{name}.lora_A.weight": torch.randn(4, 64) for name in names}
    parts |= {f"{name}.lora_B.weight": torch.randn(64, 4) for name in names}
    save_file(parts, adapter / "adapter_model.safetensors")
    model, own = load_model(base, adapter=str(adapter)).model, load_file(Path(base) / "model.safetensors")
    for layer, name in enumerate(names):
        added = 2.0 * parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"]
        before = own[f"model.layers.{layer % 2}.self_attn.q_proj.weight"]
        assert torch.allclose(queries(model, layer), before + added, atol=1e-4)


def edit(adapter: Path, **fields) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_tensors(adapter: Path, change) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


def elsewhere(adapter: Path) -> None:
    name = PART.replace("layers.1", "layers.9")
    edit_tensors(adapter, lambda t: t.update({f"{name}.lora_A.weight": torch.zeros(4, 64)}))


def as_pickle(adapter: Path) -> None:
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()


PROMPT = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2, "token_dim": 64}


def as_kind(adapter: Path, settings: dict) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, "num_layers": 4, "num_attention_heads": 4}))
    save_file({"prompt_embeddings": torch.zeros(2, 64)}, adapter / "adapter_model.safetensors")


WRONG = {
    "a part missing": (lambda a: edit_tensors(a, lambda t: t.pop(f"{PART}.lora_B.weight")), "lacks .*lora_B"),
    "a layer that is not there": (elsewhere, "no place for: .*layers.9"),
    "another width": (
        lambda a: edit_tensors(a, lambda t: t.update({f"{PART}.lora_A.weight": torch.zeros(4, 32)})),
        "does not fit",
    ),
    "modules that are not there": (lambda a: edit(a, target_modules=["nowhere"]), "does not fit"),
    "pickle": (as_pickle, "no adapter_model.safetensors"),
    "half a file": (
        lambda a: (a / "adapter_model.safetensors").write_bytes((a / "adapter_model.safetensors").read_bytes()[:300]),
        "damaged or truncated",
    ),
    "a pointer": (
        lambda a: (a / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n"),
        "git-LFS pointer",
    ),
    "a configuration that is not JSON": (lambda a: (a / "adapter_config.json").write_text("{"), "not a JSON object"),
    "of a kind nobody knows": (lambda a: edit(a, peft_type="MAGIC"), "does not fit"),
    "a setting that changes what it does, and this PEFT is too old for": (
        lambda a: edit(a, use_magic=True),
        "settings use_magic are none that this PEFT knows",
    ),
    "a kind that is no change of weights": (lambda a: as_kind(a, PROMPT), "kind PROMPT_TUNING, .* cannot be merged"),
    "modules to import": (lambda a: edit(a, megatron_config={"x": 1}, megatron_core="evil"), "imported"),
    "not a number": (
        lambda a: edit_tensors(a, lambda t: t[f"{PART}.lora_A.weight"].fill_(float("nan"))),
        "does not fit",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_that_does_not_fit_is_refused_in_one_sentence(wrong, base, adapter):
    spoil, said = WRONG[wrong]
    spoil(adapter)
    with pytest.raises(LiteStageError, match=said) as error:
        load_model(base, adapter=str(adapter))
    assert str(adapter) in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_adapter_or_two_of_them_or_without_a_base_is_refused(base, adapter, tmp_path):
    for arguments, said in (
        ({"name": base, "adapter": "./nowhere"}, "no adapter folder './nowhere'"),
        ({"name": base, "adapter": base}, "is not an adapter"),
        ({"name": str(adapter), "adapter": str(adapter)}, "is an adapter itself"),
        ({"name": str(adapter), "revision": "v1"}, "revision is 'v1'"),
        ({"name": base, "adapter": str(adapter), "revision": "v1"}, "revision is 'v1'"),
        ({"name": base, "adapter": f"{tmp_path}/{'a' * 300}"}, "no adapter folder"),
        ({"name": f"{tmp_path}/{'a' * 300}"}, "no model folder"),
    ):
        with pytest.raises(LiteStageError, match=said):
            load_model(**arguments)
    edit(adapter, base_model_name_or_path=None)
    with pytest.raises(LiteStageError, match="does not say what it adapts"):
        load_model(str(adapter))
    shutil.copy(Path(base) / "model.safetensors", adapter)
    with pytest.raises(LiteStageError, match="a whole model and an adapter"):
        load_model(str(adapter))


# --- the packaged one ---


@pytest.fixture
def packaged(base, adapter, monkeypatch):
    """A stand-in for what ``smollm2-135m-staged`` is made of."""
    monkeypatch.setitem(source.ADAPTED, "smollm2-135m-staged", (base, adapter))
    return load_model(base, adapter=str(adapter)).fingerprint


def test_a_packaged_adapter_brings_its_base_and_its_pipeline(packaged, tmp_path):
    from litestage.config import load_config
    from litestage.harness.lm import LiteStageLM
    from litestage.session.workbench import Workbench

    named = ["model=smollm2-135m-staged", "task=obqa", f"store={tmp_path}/store.sqlite"]
    bench = Workbench.open(load_config(named))
    assert bench.session.loaded.fingerprint == packaged
    assert bench.pipeline.name == "recall_analyze_summarize"
    assert Workbench.open(load_config([*named, "pipeline=single"]), bench.session).pipeline.name == "single"
    assert litestage.load("smollm2-135m-staged").pipeline.name == "recall_analyze_summarize"
    lm = LiteStageLM(pretrained="smollm2-135m-staged", device="cpu", store=str(tmp_path / "store.sqlite"))
    assert lm.arguments.pipeline == "recall_analyze_summarize"
    other = LiteStageLM(pretrained="smollm2-135m-staged", pipeline="single", device="cpu", store=str(tmp_path / "s"))
    assert other.arguments.pipeline == "single"


def test_a_packaged_adapter_over_another_base_than_it_was_tuned_on_is_said(adapter, monkeypatch, caplog):
    monkeypatch.setitem(source.ADAPTED, "smollm2-135m-staged", ("smollm2-135m", adapter))
    monkeypatch.setattr(source, "installed_gguf", lambda package: None)
    found = source.source_of("smollm2-135m-staged")
    assert (found.place, found.adapter) == ("HuggingFaceTB/SmolLM2-135M-Instruct", adapter)
    assert "is another model" in caplog.text


def test_a_packaged_adapter_that_is_not_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(source.ADAPTED, "smollm2-135m-staged", ("smollm2-135m", tmp_path / "smollm2-135m"))
    with pytest.raises(LiteStageError, match="not in this installation"):
        load_model("smollm2-135m-staged")
