"""What is loaded is what was asked for: a folder is whole and no pickle, or one sentence says what is wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_model import save_tiny_model

from litestage.decoder import load_model
from litestage.engine import Decoding, Engine, Request
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, StagePlan

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return Path(save_tiny_model(tmp_path_factory.mktemp("whole")))


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def edit(path: Path, **fields) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def edit_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def without(name):
    return lambda folder: edit_tensors(folder, lambda tensors: tensors.pop(name))


def with_tensor(name, *shape):
    return lambda folder: edit_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(shape)}))


def with_field(file, **fields):
    return lambda folder: edit(folder / file, **fields)


def with_text(file, text):
    return lambda folder: (folder / file).write_text(text)


def edit_added(folder: Path, word: str, index: int, *, special: bool) -> None:
    path = folder / "tokenizer.json"
    whole = json.loads(path.read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    whole["added_tokens"].append({"id": index, "content": word, "special": special, **flags})
    path.write_text(json.dumps(whole))


def ending_every_text(folder: Path) -> None:
    """A tokenizer saved with ``add_eos_token``, as many fine-tuned ones are."""
    path = folder / "tokenizer.json"
    end, text = {"SpecialToken": {"id": "<eos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    tokens = {"<eos>": {"id": "<eos>", "ids": [0], "tokens": ["<eos>"]}}
    pair = [text, {"Sequence": {"id": "B", "type_id": 1}}]
    kind = {"type": "TemplateProcessing", "single": [text, end], "pair": pair, "special_tokens": tokens}
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": kind}))


def cut(file, keep):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:keep])


def as_pipe(file):
    return lambda folder: ((folder / file).unlink(), os.mkfifo(folder / file))


def as_pickle(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def in_shards(folder):
    shard = "model-00002-of-00002.safetensors"
    index = {"metadata": {}, "weight_map": {"lm_head.weight": shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


WRONG = {
    "a head that is missing": (without("lm_head.weight"), "lacks lm_head.weight"),
    "a layer fewer than the configuration says": (
        with_field("config.json", num_hidden_layers=5),
        "lacks model.layers.4.input_layernorm.weight",
    ),
    "a layer more": (with_field("config.json", num_hidden_layers=3), "no place for: model.layers.3."),
    "a million layers": (with_field("config.json", num_hidden_layers=1_000_000), "1,000,000 layers by its config.json"),
    "more than memory holds": (with_field("config.json", vocab_size=10_000_000_000), "weights by its config.json"),
    "a width of millions": (with_field("config.json", intermediate_size=3_000_000_000), "weights by its config.json"),
    "no layers": (with_field("config.json", num_hidden_layers=-1), "no place for: model.layers.0."),
    "a bias nobody reads": (
        with_tensor("model.layers.1.self_attn.q_proj.bias", 64),
        "no place for: model.layers.1.self_attn.q_proj.bias",
    ),
    "another shape": (
        with_tensor("model.layers.1.mlp.up_proj.weight", 64, 64),
        r"model.layers.1.mlp.up_proj.weight is \[64, 64\], not \[128, 64\]",
    ),
    "half a file": (cut("model.safetensors", 100_000), "model.safetensors is damaged or truncated"),
    "an empty file": (cut("model.safetensors", 0), "model.safetensors is damaged or truncated"),
    "a shard that is missing": (in_shards, "lacks model-00002-of-00002.safetensors"),
    "an index that is none": (
        lambda folder: (in_shards(folder), edit(folder / "model.safetensors.index.json", weight_map=["x"])),
        "does not say by tensor in which file it is",
    ),
    "weights in whole numbers": (
        lambda folder: edit_tensors(folder, lambda t: t.update({k: (v * 50).to(torch.int8) for k, v in t.items()})),
        r"is quantised: it holds weights in whole numbers \(I8: lm_head.weight",
    ),
    "weights not fetched": (with_text("model.safetensors", POINTER), "model.safetensors is a git-LFS pointer"),
    "a configuration not fetched": (with_text("config.json", POINTER), "config.json is a git-LFS pointer"),
    "a tokenizer not fetched": (with_text("tokenizer.json", POINTER), "tokenizer.json is a git-LFS pointer"),
    "GPTQ": (with_field("config.json", quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq\)"),
    "AWQ": (with_field("config.json", quantization_config={"quant_method": "awq", "bits": 4}), r"quantised \(awq\)"),
    "bitsandbytes": (
        with_field("config.json", quantization_config={"load_in_4bit": True, "quant_method": "bitsandbytes"}),
        r"quantised \(bitsandbytes\)",
    ),
    "a pipe, which would be waited for": (as_pipe("model.safetensors"), "is a pipe"),
    "a tokenizer that is a pipe": (as_pipe("tokenizer.json"), "is a pipe"),
    "pickle": (as_pickle, "as pickle"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "usable causal LM"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "a configuration that is not JSON": (with_text("config.json", "{nope"), "config.json is not a JSON object"),
    "a configuration that is a list": (with_text("config.json", "[]"), "config.json is not a JSON object"),
    "a configuration that is Latin-1": (
        lambda folder: (folder / "config.json").write_bytes(b'{"model_type": "\xe9"}'),
        "config.json is not a JSON object",
    ),
    "a width that is a word": (with_field("config.json", hidden_size="wide"), "'hidden_size'"),
    "heads that do not divide the width": (with_field("config.json", num_attention_heads=5), "usable causal LM"),
    "an activation nobody knows": (with_field("config.json", hidden_act="swoosh"), "swoosh"),
    "kernels from elsewhere": (with_field("config.json", attn_implementation="somebody/attention"), "kernels"),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        "does not hold a usable tokenizer",
    ),
    "half a tokenizer": (cut("tokenizer.json", 2000), "does not hold a usable tokenizer"),
    "another model's tokenizer": (
        lambda folder: (
            edit_tensors(folder, lambda t: t.update({k: v[:100] for k, v in t.items() if v.shape[0] == 320})),
            edit(folder / "config.json", vocab_size=100),
        ),
        "320 tokens and the model embeddings for 100",
    ),
    "an added token beyond the embedding": (
        lambda folder: edit_added(folder, "turtle", 5000, special=False),
        r"added token 'turtle' with id \d+ and the model embeddings for 320",
    ),
    "a tokenizer that ends every text": (ending_every_text, "puts '<eos>' behind every text"),
    "generation settings that are not JSON": (
        with_text("generation_config.json", "{"),
        "generation_config.json is not a JSON object",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_folder_that_is_not_whole_is_refused_in_one_sentence_that_names_it(wrong, folder, capsys):
    spoil, said = WRONG[wrong]
    spoil(folder)
    with pytest.raises(LiteStageError, match=said) as error:
        load_model(str(folder))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")  # nothing of transformers' own beside it


def test_a_special_token_beyond_the_embedding_loads_and_is_refused_where_a_prompt_has_it(folder):
    edit_added(folder, "<image>", 5000, special=True)
    loaded = load_model(str(folder))
    engine = Engine(loaded.model, loaded.tokenizer)
    plain, image = (Request(tuple(loaded.tokenizer(text)["input_ids"]), 2) for text in ("a river", "a river <image>"))
    assert engine.generate([plain], StagePlan(), Decoding()).generations
    with pytest.raises(LiteStageError, match=r"'<image>' \(id \d+\), for which the model has no embedding"):
        engine.generate([plain, image], StagePlan(), Decoding())


def test_so_it_is_in_what_is_scored_chosen_or_run_on_trial(folder):
    edit_added(folder, "<image>", 5000, special=True)
    loaded = load_model(str(folder))
    engine = Engine(loaded.model, loaded.tokenizer)
    river, image = (loaded.tokenizer(text)["input_ids"] for text in ("a river", "<image>"))
    probe = StagePlan(exit=ExitRule("answer_probe", words="a river <image>"))
    for act in (
        lambda: engine.loglikelihood([(river, river), (image, river)], StagePlan()),
        lambda: engine.loglikelihood([(river, image)], StagePlan()),
        lambda: engine.choose([[*river, 5], [*river, *image]], StagePlan()),
        lambda: engine.choose([[*image, 5], [*image, 6]], StagePlan()),
        lambda: engine.generate([Request(tuple(river), 2)], probe, Decoding()),
    ):
        with pytest.raises(LiteStageError, match=r"'<image>' \(id \d+\), for which the model has no embedding"):
            act()


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(LiteStageError, match=r"no config\.json"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_file_of_a_folder_is_no_model(folder, file):
    """transformers takes any file for weights, pickled ones too."""
    with pytest.raises(LiteStageError, match="is a file; give the folder"):
        load_model(str(folder / file))


@pytest.mark.parametrize("given", [{"name": "~nobody-here/model"}, {"name": "reference", "adapter": "~nobody-here/x"}])
def test_a_home_that_is_nobodys_is_no_model(given):
    with pytest.raises(LiteStageError, match="~nobody-here"):
        load_model(**given)


def test_a_tied_head_is_not_missing_and_old_buffers_and_other_heads_are_not_refused(folder, caplog):
    without("lm_head.weight")(folder)
    edit(folder / "config.json", tie_word_embeddings=True)
    with_tensor("model.layers.0.self_attn.rotary_emb.inv_freq", 8)(folder)
    with_tensor("score.weight", 1, 64)(folder)
    model = load_model(str(folder)).model
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert [record.message for record in caplog.records if "left out" in record.message] == [
        f"{folder}: score.weight are no part of a causal LM and were left out"
    ]


def test_a_revision_of_a_folder_is_refused(folder):
    with pytest.raises(LiteStageError, match="'v1'"):
        load_model(str(folder), revision="v1")


def test_end_of_text_ids_that_are_no_ids_are_refused(folder):
    from litestage.session import Session

    for no_id in ("<eos>", -1):
        edit(folder / "generation_config.json", eos_token_id=no_id)
        with pytest.raises(LiteStageError, match=f"eos_token_id is {no_id!r}"):
            Session.open(str(folder))


def test_a_tokenizer_without_bos_and_eos_takes_the_models_end_of_text_under_lm_eval(folder, tmp_path):
    from lm_eval.api.instance import Instance

    from litestage.harness.lm import LiteStageLM

    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    arguments = {"pretrained": str(folder), "device": "cpu", "store": str(tmp_path / "store.sqlite")}
    lm = LiteStageLM(**arguments)
    assert lm.tokenizer.eos_token_id is None
    assert (lm.eot_token_id, lm.prefix_token_id) == (0, 0)
    ((score, _),) = lm.loglikelihood([Instance("loglikelihood", {}, ("", " river"), 0)])
    assert score < 0
    edit(folder / "generation_config.json", eos_token_id=None)
    assert LiteStageLM(**arguments).eot_token_id == 0  # config.json's
    edit(folder / "config.json", eos_token_id=None)
    with pytest.raises(LiteStageError, match="end-of-sequence"):
        LiteStageLM(**arguments)


# --- the hub ---


def in_hub_cache(folder: Path, home: Path, name: str) -> str:
    """Puts a folder where the hub's client keeps what it has fetched; returns the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = home / "hub" / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    return commit


@pytest.mark.slow
def test_results_and_plans_carry_the_commit_of_a_hub_model(folder, tmp_path):
    commit = in_hub_cache(folder, tmp_path / "home", "somebody/tiny")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    program = "from litestage.cli import main; main()"
    options = [
        *("compare", "model.pretrained=somebody/tiny", "methods=[full]", "questions=1", "latency_questions=0"),
        *("max_new_tokens={recall: 4, analyze: 4, summarize: 4}", "output=out", "store=store.sqlite"),
    ]
    command = [sys.executable, "-c", program, *options]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=900)
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["model"]["revision"] == commit
    program = (
        "from litestage.session import Session; s = Session.open('somebody/tiny');"
        "from litestage.stages import load_pipeline; p = load_pipeline('single');"
        "print(s.plan('full', None, p).model['revision'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == commit
