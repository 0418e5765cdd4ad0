"""Training learns, saves what transformers loads, and fine-tunes what it saved."""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from tiny import FAMILIES, random_model
from tiny_model import save_tiny_model
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from litestage.errors import LiteStageError
from litestage.menagerie import load_split
from litestage.stages import load_pipeline
from litestage.stages.gold import StagedRow, read_staged, write_staged
from litestage.training.batches import QuestionSteps, StageSteps
from litestage.training.config import TokenWeight, load_config
from litestage.training.examples import Example, ExampleTokens, row_examples, stage_examples
from litestage.training.module import rate, summed_loss
from litestage.training.run import train
from litestage.training.tree import TokenTree

REFERENCE = Path(__file__).parent.parent / "litestage" / "reference"
PIPELINE = load_pipeline("recall_analyze_summarize")
TINY = [
    *("model.architecture.num_hidden_layers=2", "model.architecture.hidden_size=32"),
    *("model.architecture.intermediate_size=64", "rows={recall: 8, analyze: 8, summarize: 8}"),
    *("threads=1", "accelerator=cpu", "warmup_steps=2"),
]
ON_ONE_THREAD = ("threads=1", "accelerator=cpu", "precision=32-true", "tokens=0")
# Lightning's own notes on short runs, loader workers and a deprecated import of its own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


def mean_loss(folder: Path, rows: Sequence[StagedRow] = ()) -> float:
    """Mean -log p of the completion tokens of 24 fixed test prompts (or of the rows'), apart from the training code."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    examples = stage_examples(rows or load_split("menagerie", "test")[:24], PIPELINE)
    losses = []
    for example in (each[0] for each in examples.values()):
        prompt = tokenizer(example.prompt, return_tensors="pt")["input_ids"]
        completion = tokenizer(example.completion, return_tensors="pt")["input_ids"]
        labels = torch.cat([torch.full_like(prompt, -100), completion], dim=1)
        with torch.no_grad():
            losses.append(model(input_ids=torch.cat([prompt, completion], dim=1), labels=labels).loss.item())
    return sum(losses) / len(losses)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A staged JSONL file of 64 menagerie questions."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    write_staged(load_split("menagerie", "train")[:64], path)
    return path


@pytest.fixture(scope="module")
def trained(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two tiny models trained from scratch: for one step, and for 40."""
    folder = tmp_path_factory.mktemp("training")
    steps = {"untrained": 1, "trained": 40}
    for name, count in steps.items():
        options = [*TINY, "data.menagerie=[]", f"data.files=[{rows}]", f"steps={count}", "learning_rate=1e-2"]
        train(load_config("menagerie", [*options, f"output={folder / name}"]))
    return folder / "untrained", folder / "trained"


def test_training_lowers_the_loss(trained: tuple[Path, Path]) -> None:
    untrained, after = trained
    assert mean_loss(after) < 0.7 * mean_loss(untrained)


def test_the_saved_folder_holds_16_bit_weights_and_a_tokenizer_with_eos_and_padding(trained: tuple[Path, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained[1], trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(trained[1], trust_remote_code=False)
    assert model.dtype == torch.bfloat16
    assert tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    text = "A turtle lives in the swamp; ça va? 乌龟"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (trained[1] / "training.yaml").is_file()


def test_fine_tuning_a_saved_folder_on_staged_jsonl_lowers_the_loss_further(
    trained: tuple[Path, Path], rows: Path, tmp_path: Path
) -> None:
    (tmp_path / "tune.yaml").write_text(
        f"output: {tmp_path / 'tuned'}\ndata: {{files: [{rows}]}}\n"
        f"model: {{pretrained: {trained[1]}}}\nquestions: 8\nsteps: 20\nwarmup_steps: 2\nthreads: 1\naccelerator: cpu\n"
    )
    assert mean_loss(train(load_config(str(tmp_path / "tune.yaml")))) < mean_loss(trained[1])


@pytest.mark.slow
@pytest.mark.skipif("LITESTAGE_DATA" not in os.environ, reason="LITESTAGE_DATA names no folder with the real data")
def test_a_model_tuned_on_real_rows_loses_less_on_them_and_goes_through_a_comparison(tmp_path: Path) -> None:
    def litestage(*options: str) -> None:
        program = "from litestage.cli import main; main()"
        subprocess.run([sys.executable, "-c", program, *options], check=True, cwd=tmp_path, capture_output=True)

    litestage("data", "build", "task=obqa", "output=rows.jsonl", "questions=50")
    model = save_tiny_model(tmp_path / "untuned")
    options = [f"data.files=[{tmp_path}/rows.jsonl]", f"model.pretrained={model}", f"output={tmp_path}/tuned"]
    small = ["questions=2", "steps=12", "warmup_steps=2", "learning_rate=1e-2", "completion_weight=4"]
    tuned = train(load_config("staged", [*options, *small, *ON_ONE_THREAD]))
    rows = read_staged(tmp_path / "rows.jsonl")[:4]
    assert mean_loss(tuned, rows) < 0.7 * mean_loss(Path(model), rows)
    litestage(
        *("compare", "model.pretrained=tuned", "task=obqa", "pipeline=recall_analyze_summarize", "output=compared"),
        *("methods=[full,uniform:2]", "questions=2", "latency_questions=1", "store=store.sqlite"),
        *(f"max_new_tokens.{stage}=4" for stage in PIPELINE.stage_names),
    )
    results = json.loads((tmp_path / "compared" / "results.json").read_text())
    assert [(method["name"], method["latency_n"]) for method in results["methods"]] == [("full", 1), ("uniform", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_goes_on_and_ends_with_the_weights_it_would_have_had(
    rows: Path, tmp_path: Path, how: signal.Signals
) -> None:
    options = [*TINY, "data.menagerie=[]", f"data.files=[{rows}]", "steps=24", "tokens=300", "schedule=cosine"]
    whole = train(load_config("menagerie", [*options, f"output={tmp_path / 'whole'}", "save_every=0"]))
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "litestage.training", "menagerie", *options, f"output={killed}", "save_every=4"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not (killed / "checkpoint.ckpt").is_file() and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(how)
    assert running.returncode == -how  # not 0, as if there were a model
    assert not (killed / "config.json").exists()
    with pytest.raises(LiteStageError, match=r"other options \(steps=24\)"):
        train(load_config("menagerie", [*options, f"output={killed}", "save_every=4", "steps=25"]))
    train(load_config("menagerie", [*options, f"output={killed}", "save_every=4"]))
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (killed / "checkpoint.ckpt").exists()


def test_the_learning_rate_rises_and_falls_as_the_schedule_says(rows: Path, tmp_path: Path) -> None:
    small = ["data.menagerie=[]", f"data.files=[{rows}]", f"output={tmp_path}", "warmup_steps=2", "steps=10"]
    rates = {
        schedule: [
            round(rate(load_config("menagerie", [*small, f"schedule={schedule}", "decay=0.5"]), step), 3)
            for step in (0, 1, 2, 6, 8)
        ]
        for schedule in ("linear", "cosine", "constant")
    }
    assert rates == {
        "linear": [0.5, 1, 1, 0.8, 0.4],  # falls over the last 5 steps
        "cosine": [0.5, 1, 1, 0.5, 0.146],  # (1 + cos(pi k / 8)) / 2 at k = 0, 4, 6
        "constant": [0.5, 1, 1, 1, 1],
    }


def test_a_completion_starts_with_one_space_where_the_tokenizer_adds_one_itself() -> None:
    """TinyLlama's and Mistral's do: text after a prompt is the word with its space, not a space and a word with one."""
    raw = Tokenizer(models.WordLevel({"▁So": 0, "▁": 1, "▁Recall:": 2, "</s>": 3, "<unk>": 4}, unk_token="<unk>"))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>")
    assert tokenizer(" So")["input_ids"] == [1, 0]
    (sequence,) = ExampleTokens(tokenizer).of_stage([Example("Recall:", " So")])
    assert sequence == ([2, 0, 3], [0.0, 1.0, 1.0])


def test_what_is_taught_as_the_end_of_a_text_is_what_ends_a_generation() -> None:
    """A tokenizer may name another end than generation_config.json, which is the one that is obeyed."""
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    own, example = tokenizer.eos_token_id, Example("Recall:", " So")
    for ends, taught in (((), own), ((own + 3, own), own), ((own + 3, own + 4), own + 3)):
        (sequence,) = ExampleTokens(tokenizer, ends=ends).of_stage([example])
        assert sequence[0][-1] == taught


def test_each_context_is_the_inference_prompt_and_the_loss_covers_the_completion_with_its_weights() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    rows = load_split("menagerie", "test")[:1]
    examples = {"analyze": stage_examples(rows, PIPELINE)["analyze"]}
    weights = [TokenWeight(r"\b(in)?correct\b", 4.0)]
    gold = rows[0].gold
    for listed in ExampleTokens(tokenizer, weights).of_stage(examples["analyze"]):
        ids, weight = map(torch.tensor, listed)
        prompt = PIPELINE.stages[1].prompts(rows[0].question, {"recall": gold["recall"]})
        context = tokenizer.decode(ids[: int((weight > 0).nonzero()[0])])
        option = prompt.index(context)
        assert tokenizer.decode(ids[weight > 0]) == f" {gold['analyze'][option]}{tokenizer.eos_token}"
        assert tokenizer.decode(ids[weight == 4.0]) in (" correct", " incorrect")


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "gemma2", "gemma3", "granite", "qwen3_5"])
def test_a_tree_loses_what_its_examples_lose_one_by_one(model_type: str) -> None:
    """Every token of a tree sees what it would see alone, at the same position: sums of the weighted loss are equal."""
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    model = with_vocabulary(model_type, len(tokenizer))
    row = load_split("menagerie", "test")[0]
    encode = ExampleTokens(tokenizer, [TokenWeight(r"\b(in)?correct\b", 8.0, balanced=True)], completion_weight=0.5)
    steps = QuestionSteps([row], PIPELINE, encode, questions=1)
    (tree,) = next(steps.trees())
    (batch,) = next(iter(steps))
    alone = 0.0
    sequences = [each for examples in row_examples(row, PIPELINE).values() for each in encode.of_stage(examples)]
    for ids, weights in sequences:
        log_p = model(input_ids=torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
        alone -= float((log_p[range(len(ids) - 1), ids[1:]] * torch.tensor(weights[1:])).sum())
    assert float(summed_loss(model, batch)) == pytest.approx(alone, rel=1e-4)
    model.set_attn_implementation("eager")  # as it is trained on a CPU
    assert float(summed_loss(model, batch)) == pytest.approx(alone, rel=1e-4)
    assert len(tree.ids) < 0.5 * sum(len(ids) for ids, _ in sequences)


def test_a_step_done_in_parts_loses_the_same() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    model = with_vocabulary("llama", len(tokenizer))
    rows = load_split("menagerie", "test")[:6]
    whole, parts = (next(iter(QuestionSteps(rows, PIPELINE, ExampleTokens(tokenizer), 6, tokens=n))) for n in (0, 400))
    assert len(whole) == 1 < len(parts)
    assert max(batch.input_ids.numel() for batch in parts) <= 400
    losses = [sum(float(summed_loss(model, batch)) for batch in batches) for batches in (whole, parts)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_balanced_pattern_gives_each_wording_the_same_weight_in_a_question() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    examples = [Example("For option A,", f" it is {verdict}.") for verdict in ("correct", *["incorrect"] * 3)]
    encode = ExampleTokens(tokenizer, [TokenWeight(r"\b(in)?correct\b", 12.0, balanced=True)], completion_weight=0.0)
    assert [sorted({*weights} - {0.0}) for _, weights in encode.of_stage(examples)] == [[12.0], [4.0], [4.0], [4.0]]


def test_later_prompts_hold_what_a_model_might_have_written_and_never_ask_for_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    row = load_split("menagerie", "test")[0]
    wrong = StagedRow(row.question, row.gold, {"recall": ["A turtle sings."]})
    steps = QuestionSteps([wrong], PIPELINE, ExampleTokens(tokenizer), questions=1, seen=1.0)
    (tree,) = next(steps.trees())
    paths = {place: path(tree, place) for place, weight in enumerate(tree.weights) if weight}
    asked = {tokenizer.decode(tree.ids[place]) for place in paths}
    assert " sings" not in asked
    after = [tokenizer.decode(before) for place, before in paths.items() if "Analyze:" in tokenizer.decode(before)]
    assert after
    assert all("Recall: A turtle sings.\nAnalyze:" in text for text in after)


def with_vocabulary(family: str, size: int) -> Any:
    config = copy.deepcopy(FAMILIES[family].config)
    config.vocab_size = size
    return random_model(config)


def path(tree: TokenTree, place: int) -> list[int]:
    """The token ids from the root to a node."""
    ids: list[int] = []
    while place >= 0:
        ids.insert(0, tree.ids[place])
        place = tree.parents[place]
    return ids


def test_a_stage_may_be_trained_in_a_share_of_the_questions() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    rows = load_split("menagerie", "test")[:200]
    steps = QuestionSteps(rows, PIPELINE, ExampleTokens(tokenizer), questions=200, share={"summarize": 0.25})
    trees = next(steps.trees())
    with_summary = sum("Summarize:" in tokenizer.decode(tree.ids) for tree in trees)
    assert 30 < with_summary < 70


def test_a_stage_with_a_share_of_0_is_never_trained() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    rows, share = load_split("menagerie", "test")[:100], {"recall": 0.0, "analyze": 0.1, "summarize": 0.1}
    steps = QuestionSteps(rows, PIPELINE, ExampleTokens(tokenizer), questions=100, share=share, apart=True)
    stages = [tree.stage for tree in next(steps.trees())]
    assert set(stages) == {"analyze", "summarize"}
    assert 35 < stages.count("analyze") < 75


@pytest.fixture(scope="module")
def adapted(trained: tuple[Path, Path], rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter for the tiny model that was trained."""
    output = tmp_path_factory.mktemp("lora") / "adapter"
    options = [f"data.files=[{rows}]", f"model.pretrained={trained[1]}", f"output={output}", "lora={rank: 8}"]
    train(load_config("staged", [*options, "steps=20", "warmup_steps=2", "learning_rate=1e-2", *ON_ONE_THREAD]))
    return output


def test_lora_saves_a_small_adapter_that_lowers_the_loss_of_its_base(trained: tuple[Path, Path], adapted: Path) -> None:
    from peft import PeftModel

    base = AutoModelForCausalLM.from_pretrained(trained[1], dtype=torch.float32, trust_remote_code=False)
    merged = PeftModel.from_pretrained(base, adapted).merge_and_unload()
    merged.save_pretrained(adapted / "merged")
    AutoTokenizer.from_pretrained(trained[1], trust_remote_code=False).save_pretrained(adapted / "merged")
    assert mean_loss(adapted / "merged") < mean_loss(trained[1])
    assert json.loads((adapted / "adapter_config.json").read_text())["base_model_name_or_path"] == str(trained[1])
    with safe_open(adapted / "adapter_model.safetensors", "pt") as weights:
        assert all(".lora_" in name for name in weights.keys())  # noqa: SIM118


def test_what_a_run_takes_and_how_it_does_is_said(
    rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*TINY, "data.menagerie=[]", f"data.files=[{rows}]", f"output={tmp_path / 'out'}", "steps=4"]
    train(load_config("menagerie", [*options, "check={every: 2, tasks: [menagerie], questions: 3, held_out: 4}"]))
    said = capsys.readouterr().out
    assert re.search(
        r"4 steps of 0\.\d+M parameters on cpu in 32-true: about .* s a step, .* h, and .* GB of memory", said
    )
    losses = [float(loss) for loss in re.findall(r"step \d: held-out loss ([\d.]+), menagerie \d+% of 3", said)]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_every_example_is_used_once_before_any_is_used_again() -> None:
    tokenizer = AutoTokenizer.from_pretrained(REFERENCE / "full", trust_remote_code=False)
    examples = {"recall": stage_examples(load_split("menagerie", "test")[:12], PIPELINE)["recall"]}
    steps = StageSteps(examples, ExampleTokens(tokenizer), {"recall": 4}).trees()
    seen = [tokenizer.decode(tree.ids) for _ in range(3) for tree in next(steps)]
    assert len(set(seen)) == 12
