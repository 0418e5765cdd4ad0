"""Training options, data and folders that cannot be: one sentence, before any work where that can be known."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_model import save_tiny_model

from litestage.decoder import load_model
from litestage.errors import LiteStageError
from litestage.menagerie import load_split
from litestage.stages.gold import write_staged
from litestage.training.config import KNOWN, load_config
from litestage.training.run import train

TINY = [
    *("model.architecture.num_hidden_layers=2", "model.architecture.hidden_size=32"),
    *("model.architecture.intermediate_size=64", "rows={recall: 8, analyze: 8, summarize: 8}"),
    *("threads=1", "accelerator=cpu", "warmup_steps=2"),
]
# Lightning's own notes on short runs, loader workers and a deprecated import of its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A staged JSONL file of 64 menagerie questions."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write_staged(load_split("menagerie", "train")[:64], path)
    return path


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("learning_rat=1", "'learning_rat'; did you mean 'learning_rate'"),
        ("data.menageri=[x]", "'data.menageri'; did you mean 'data.menagerie'"),
        ("steps=many", "'steps'"),
        ("steps", "'steps' is not key=value"),
        ("steps=0", "steps=0"),
        ("data.files=[]", "data is empty"),
        ("data.menagerie=[menageri]", "'menageri'; did you mean 'menagerie'"),
        ("model.pretrained=/nowhere", "one of model.pretrained"),
        ("model.architecture.model_type=lama", "model.architecture does not describe a model"),
        ("rows.recal=3", "'recal'; did you mean 'recall'"),
        ("save_dtype=int8", "save_dtype is 'int8'; known: bfloat16"),
        ("schedule=cosin", "schedule is 'cosin'; did you mean 'cosine'"),
        ("precision=bf16", "precision is 'bf16'; did you mean 'bf16-true'"),
        ("tokens=-1", "tokens=-1"),
        ("accelerator=tpuu", "accelerator is 'tpuu'; did you mean 'tpu'"),
        ("accelerator=tpu", "accelerator='tpu' cannot be used"),
        ("learning_rate=0", "learning_rate=0.0 trains nothing"),
        ("learning_rate=1e30 steps=2", "no finite numbers after the training"),
        ("completion_weight=0 token_weights=[] earlier_weight=0", "completion_weight=0 trains nothing"),
        ("token_weights=[{pattern: a, weight: nan}]", "token_weights.0.weight=nan"),
        ("questions=4", "one of questions .* and rows"),
        ("rows={} questions=4 stage_share.recal=1", "'recal'; did you mean 'recall'"),
        (
            "rows={} questions=4 stage_share={recall: 0, analyze: 0, summarize: 0}",
            "stage_share is 0 for recall, analyze",
        ),
        ("rows={} questions=4 seen=2", "seen=2.0 is not a share"),
        ("rows={} questions=4 sublayer_dropout.recal=0.1", "'recal'; did you mean 'recall'"),
        ("rows={} questions=4 sublayer_dropout.recall=1.5", "sublayer_dropout.recall=1.5 is not a share"),
        ("sublayer_dropout.recall=0.5", "sublayer_dropout goes by the stages"),
        ("check.every=1 check.held_out=64", "check.held_out=64 leaves none of 64"),
        (
            "model.architecture={} model.pretrained=reference lora={rank: 2, targets: [q_prj]}",
            r"lora.targets=\['q_prj'\] does not fit",
        ),
        (
            "model.architecture={} model.pretrained=reference lora={rank: 2, targets: [q_proj, k_prj]}",
            "has no 'k_prj'; did you mean 'k_proj'",
        ),
        ("stage_share.recall=0.5", "stage_share goes by the stages of whole questions; give questions instead of rows"),
        ("seen=0.5", "seen goes by the stages of whole questions"),
        ("lora.alpha=8", "lora.alpha is an adapter's"),
        ("model.base=somebody/model", "model.base is an adapter's"),
        ("lora.rank=2", "lora.rank adapts a model that is there; give model.pretrained"),
        ("model.architecture={} model.pretrained=reference model.vocab_size=9", "model.vocab_size is of a model from"),
        ("rows={recall: 0}", "rows is 0 for recall"),
        ("check={every: 1, held_out: 0}", "check.every looks at nothing"),
        ("check={every: 1, tasks: [menagerie], questions: 0}", "check.questions=0 asks none"),
        (
            "completion_weight=0 earlier_weight=0 token_weights=[{pattern: zzz, weight: 5}]",
            r"No text .* has a match of token_weights \(zzz\), and nothing else has a weight",
        ),
        ("threads=100000", r"threads=100000 are more than the \d+ cores"),  # which would end the process
        ("seed=4294967296", r"seed=4294967296 .* below 2\*\*32"),
        ("model.vocab_size=10", "model.vocab_size=10 has no room for the bytes"),
        ("model.architecture.vocab_size=300", "model.architecture.vocab_size is the trained tokenizer's"),
        ("model.architecture.max_position_embeddings=40", "'analyze' and its text take .* tokens, .* room for 40"),
        ("model.architecture.hiden_size=8", "'hiden_size'; did you mean 'hidden_size'"),
        ("model.architecture.num_attention_heads=5", "model.architecture does not describe a model"),
        ("model.architecture={model_type: gpt2}", "Model family 'gpt2' is not supported"),
    ],
)
def test_a_mistake_is_one_clear_sentence(override: str, named: str, rows: Path, tmp_path: Path) -> None:
    small = ["data.menagerie=[]", f"data.files=[{rows}]"]
    with pytest.raises(LiteStageError, match=named) as caught:
        train(load_config("menagerie", [*TINY, *small, f"output={tmp_path}", *re.split(r" (?=\w+[.=])", override)]))
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
@pytest.mark.parametrize(
    "name", ["gradient_clip", "weight_decay", "learning_rate", "completion_weight", "earlier_weight", "decay"]
)
def test_a_number_that_is_none_is_refused(name: str, value: str) -> None:
    with pytest.raises(LiteStageError, match=f"{name}={value}"):
        load_config("menagerie", [f"{name}={value}"])


def test_the_accelerators_are_lightnings_own() -> None:
    from lightning.pytorch.accelerators import AcceleratorRegistry

    assert {"auto", "gpu", *AcceleratorRegistry.available_accelerators()} == set(KNOWN["accelerator"])


def test_the_command_exits_with_code_2_and_no_traceback() -> None:
    command = [sys.executable, "-m", "litestage.training", "menagerie", "stepz=5"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.strip() == "litestage: There is no option 'stepz'; did you mean 'steps'?"


def test_rows_that_all_ask_the_held_out_question_leave_none_to_train_on(tmp_path: Path) -> None:
    write_staged(load_split("menagerie", "train")[:1] * 3, tmp_path / "same.jsonl")
    options = ["data.menagerie=[]", f"data.files=[{tmp_path}/same.jsonl]", "check.every=1", "check.held_out=1"]
    with pytest.raises(LiteStageError, match="leaves none of 3 rows"):
        train(load_config("menagerie", [*TINY, *options, f"output={tmp_path}/out"]))


def test_steps_and_held_out_rows_without_a_weight_change_nothing(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Of eight questions one has a word that counts, and nothing else does: most steps are divided by no weight."""
    lines = rows.read_text().splitlines(keepends=True)[:8]
    only = json.loads(lines[3])["recall"]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    base = save_tiny_model(tmp_path / "base")
    weights = f"token_weights=[{{pattern: '{re.escape(only)}', weight: 1.0}}, {{pattern: zzz, weight: 1.0}}]"
    checked = "check={every: 4, held_out: 1}"  # the first row
    options = tuning(tmp_path / "rows.jsonl", base, tmp_path / "out", weights, "completion_weight=0", checked)
    train(load_config("staged", [*options, "questions=1", "steps=8", "save_dtype=float32"]))
    assert "held-out loss 0.000" in capsys.readouterr().out
    assert "no text that is to be written has a match of 'zzz'" in caplog.text
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert not torch.equal(weights["lm_head.weight"], load_file(Path(base) / "model.safetensors")["lm_head.weight"])


def tuning(rows: Path, base: str, output: Path, *more: str) -> list[str]:
    options = [f"data.files=[{rows}]", f"model.pretrained={base}", f"output={output}", "questions=2", "steps=2"]
    return [*options, "warmup_steps=1", "threads=1", "accelerator=cpu", "precision=32-true", "tokens=0", *more]


def test_a_folder_that_the_result_could_not_be_read_from_is_refused_before_any_work(rows: Path, tmp_path: Path) -> None:
    """An adapter beside a whole model, or the other way round, and what is no folder."""
    base = save_tiny_model(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "file").write_text("in the way")
    for output, more, said in (
        ("base", ["lora.rank=2"], "holds a whole model, beside which an adapter could not be loaded"),
        ("adapter", [], "holds an adapter, beside which a whole model could not be loaded"),
        ("file", [], "cannot be written"),
    ):
        with pytest.raises(LiteStageError, match=said):
            train(load_config("staged", tuning(tmp_path / "no rows yet", base, tmp_path / output, *more)))


def test_a_run_does_not_go_on_over_other_rows_or_another_model(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, own = save_tiny_model(tmp_path / "base"), tmp_path / "rows.jsonl"
    options = tuning(own, base, tmp_path / "out", "save_every=1")
    lines = rows.read_text().splitlines(keepends=True)[:8]
    own.write_text("".join(lines))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("litestage.training.run.save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(load_config("staged", options))
    own.write_text("".join(lines[1:]))
    with pytest.raises(LiteStageError, match="digest of the rows"):
        train(load_config("staged", options))
    own.write_text("".join(lines))
    shutil.copytree(base, tmp_path / "kept")
    save_tiny_model(Path(base), layers=3)
    with pytest.raises(LiteStageError, match="digest of the model"):
        train(load_config("staged", options))
    shutil.copytree(tmp_path / "kept", base, dirs_exist_ok=True)
    ends = Path(base) / "generation_config.json"
    ends.write_text(json.dumps({**json.loads(ends.read_text()), "eos_token_id": 1}))
    with pytest.raises(LiteStageError, match="digest of the tokenizer"):
        train(load_config("staged", options))
    shutil.copytree(tmp_path / "kept", base, dirs_exist_ok=True)
    assert train(load_config("staged", options)) == tmp_path / "out"


def test_a_row_whose_last_text_names_another_option_than_its_answer_is_named(rows: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in rows.read_text().splitlines()[:4]]
    lines[2]["options"].reverse()
    lines[2]["answer"] = "ABCD"[3 - "ABCD".index(lines[2]["answer"])]  # the answer moved along, the texts did not
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = tuning(tmp_path / "rows.jsonl", save_tiny_model(tmp_path / "base"), tmp_path / "out")
    with pytest.raises(LiteStageError, match=f"Row '{lines[2]['id']}' has the answer .* its 'summarize' says '[A-D]'"):
        train(load_config("staged", options))


def test_a_folder_used_again_has_no_chat_template_of_the_model_before(rows: Path, tmp_path: Path) -> None:
    base, output = save_tiny_model(tmp_path / "base"), tmp_path / "out"
    output.mkdir()
    for name in ("chat_template.jinja", "notes.txt"):
        (output / name).write_text("another model's")
    train(load_config("staged", tuning(rows, base, output, "steps=1")))
    assert load_model(str(output)).tokenizer.chat_template is None
    assert (output / "notes.txt").is_file()
