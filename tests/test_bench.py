"""The bench's arithmetic on seconds known beforehand, and one small run of each part."""

import copy
import json
import os
import time
from dataclasses import asdict

import pytest
import torch
from tiny import Characters, random_prompts, some_questions, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from litestage.bench import chain, gpu, llama, llama_worker, real, rivals, rounding, run, shape
from litestage.bench.picture import as_markdown, as_svg
from litestage.bench.reference import question_rows, reference_rows
from litestage.bench.row import Row, compared, take_turns
from litestage.cli.commands import app
from litestage.cli.run_bench import run_bench
from litestage.config import load_config
from litestage.errors import LiteStageError
from litestage.plan import Plan, SkipSet
from litestage.session.workbench import Workbench
from litestage.stages import load_pipeline


def test_the_ratio_is_of_pairs_and_a_slow_moment_does_not_move_it():
    row = compared("m", "what", "whom", ours=[1.0, 1.0, 1.0, 50.0, 1.0], theirs=[3.0, 3.0, 3.0, 3.0, 3.0], bar=2.5)
    assert (row.ours_s, row.theirs_s, row.ratio) == (1.0, 3.0, 3.0)
    assert row.ratio_ci95[0] <= 3.0 == row.ratio_ci95[1]
    drifting = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert compared("m", "what", "whom", ours=drifting, theirs=[2 * seconds for seconds in drifting]).ratio == 2.0


def test_runs_take_turns_and_warm_up_once():
    order = []
    seconds = take_turns({"a": lambda: order.append("a"), "b": lambda: (order.append("b"), time.sleep(0.01))}, 2)
    assert order == ["a", "b"] * 3
    assert len(seconds["a"]) == len(seconds["b"]) == 2
    assert min(seconds["b"]) > 0.01 > max(seconds["a"])


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shape, "SHAPE", {**shape.SHAPE, "hidden_size": 112, "intermediate_size": 256})
    monkeypatch.setattr(shape, "SHAPE", {**shape.SHAPE, "vocab_size": 50_000})


def test_a_steps_bytes_are_the_weights_it_reads(small):
    made = shape.Shape.made(2, torch.bfloat16)
    whole = shape.step_bytes(made, SkipSet())
    ffn, attention = 3 * 112 * 256 * 2, (112 * (14 + 2 + 2 + 14) * 8 + (14 + 2 + 2) * 8) * 2
    assert whole == 2 * (ffn + attention) + 50_000 * 112 * 2
    assert whole - shape.step_bytes(made, SkipSet(mhsa=(1,), ffn=(0,))) == ffn + attention


def test_generate_is_not_made_to_copy_its_head(small):
    """A slice handed to a bfloat16 head is answered with a copy of its weight: the rival would be ten times slower."""
    made, copied = shape.Shape.made(1, torch.bfloat16), []

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if "bmm" in str(func) and result.shape[-1] == 50_000:
                copied.append(func)
            return result

    for asked in (shape.prompts(32, 0, 1), shape.prompts(32, 0, 4)):
        with Copies():
            made.theirs(asked, 2)
    assert copied == []


def test_the_large_shapes_rows(small):
    rows = shape.shape_rows(shape.Shape.made(4, torch.bfloat16), repeats=2)
    whats = [row.what for row in rows]
    assert whats[:3] == ["prefill of 128 tokens", "decode step, 1 row", "decode step, 4 rows"]
    assert all(row.ratio is not None and row.ours_s is not None for row in rows)
    assert [row.bar for row in rows if "skipped" in row.what] == [0.9, 0.9]


def test_skip_efficiency_is_the_time_saved_over_the_bytes_saved(small, monkeypatch):
    """A step that takes a tenth for what has no bytes, and the rest by its bytes, on a machine that slows down."""
    made, slower = shape.Shape.made(4, torch.bfloat16), [1.0]
    whole = shape.step_bytes(made, SkipSet())

    def step_s(asked_of, asked, skip):
        slower[0] *= 1.01
        return slower[0] * (0.1 + 0.9 * shape.step_bytes(asked_of, skip) / whole)

    monkeypatch.setattr(shape, "_step_s", step_s)
    rows = shape.skip_efficiency(made, repeats=2)
    assert [row.ratio for row in rows] == pytest.approx([0.9, 0.9], abs=0.005)
    assert all(row.ours_s < row.theirs_s for row in rows)


def test_a_gpus_rows_are_those_that_stay_in_the_table_without_one(small, monkeypatch):
    monkeypatch.setattr(gpu, "TINYLLAMA_SHAPE", {**gpu.TINYLLAMA_SHAPE, "hidden_size": 64, "num_hidden_layers": 2})
    monkeypatch.delenv(gpu.TOKENIZERS, raising=False)
    *rows, search = gpu.gpu_rows(layers=2, repeats=2, device="cpu", steps=4)
    assert all(row.ratio is not None for row in rows)
    assert search.note == "not measured: LITESTAGE_TOKENIZERS does not name a folder with qwen2 in it."
    assert all(row.model.endswith(", cpu") for row in (*rows, search))
    here = {(row.model.split(" ")[0], row.what, row.against, row.bar) for row in (*rows, search)}
    for missing in gpu.not_measured("no GPU here"):
        assert missing.ratio is None
        assert missing.note == "not measured: no GPU here"
        assert (missing.model.split(" ")[0], missing.what, missing.against, missing.bar) in here


@pytest.mark.slow
def test_a_whole_search_by_the_clock(small):
    """On a CPU and short: the weights are random, so every text is as long as it may be."""
    made = shape.Shape.made(2, torch.float32)
    short = ["max_new_tokens.recall=3", "max_new_tokens.analyze=3", "max_new_tokens.summarize=3"]
    options = ["task=menagerie", "search.calibration=4", "search.timed_questions=1", "search.finalists=1", *short]
    row = gpu.search_row(made, Characters(), options)
    assert row.note.startswith("4 questions, ")
    assert row.ratio == pytest.approx(600 / row.ours_s)


def test_a_gpus_first_words_are_whether_its_steps_write_the_right_tokens(small, capsys):
    gpu.main(["profile"], device="cpu", layers=1)
    said, _, table = capsys.readouterr().out.partition("\n")
    found = json.loads(said)
    assert found["same_rows"] == found["rows"] == 3 * (1 + 4 + 16)
    assert (found["why_not_static"], found["graphs_recorded"]) == (None, 0)
    assert "CPU total" in table


def test_lm_evals_own_hf_writes_the_same_texts_after_the_same_prompts():
    work = Workbench.open(load_config(["engine=cpu"]))
    model, tokenizer, questions = (
        work.session.loaded.model,
        work.session.loaded.tokenizer,
        work.task.questions("test")[:3],
    )
    by_hand = rivals.answer(rivals.by_generate(model, tokenizer, work.session.encode), work.pipeline, questions)
    assert rivals.answer(rivals.by_harness(model, tokenizer, 4), work.pipeline, questions) == by_hand


def test_a_joint_stage_may_write_as_much_as_all_its_options_together():
    pipeline, (question,) = load_pipeline("recall_analyze_summarize").with_mode("joint"), some_questions(1)
    asked = {}
    rivals.answer(lambda stage, prompts, limit: asked.update({stage.name: limit}) or ["A"], pipeline, [question])
    each = {stage.name: stage.max_new_tokens for stage in pipeline.stages}
    assert asked == {**each, "analyze": len(question.options) * each["analyze"]}


@pytest.mark.slow
def test_a_whole_question_stands_in_the_table_under_each_plan_with_its_bar():
    work = Workbench.open(load_config(FEW))
    alone = {"full": 4.0, "full+prefix+lookup": None}
    rows = question_rows("m", work, copy.deepcopy(work.session.loaded.model), 2, 1, alone, 3.0)
    assert [(row.what, row.bar) for row in rows] == [
        ("whole question", 4.0),
        ("whole question, full+prefix+lookup", None),
        ("a question of many", 3.0),
        ("a question of many", None),
    ]
    assert [row.note for row in rows[:2]] == ["the same texts in 2 of 2 questions"] * 2  # float32: drafts change none
    assert all(row.ratio > 1 for row in rows[:2])


@pytest.mark.slow
def test_the_reference_models_texts_are_generates_own():
    whole, many, harness, mask = reference_rows(questions=2, repeats=2)
    assert whole.note == "the same texts in 2 of 2 questions"
    assert whole.ratio > 1  # transformers runs the same modules one by one: slower on any machine
    assert many.against.startswith("generate, ")
    assert harness.against == many.against.replace("generate", "lm-eval's hf")
    assert harness.ratio > 1
    assert mask.what == "8 tokens under a new mask"


def test_the_command_prints_writes_and_ends_with_json(monkeypatch, tmp_path):
    rows = [compared("m", "what", "whom", [1.0, 1.1], [2.0, 2.2], 1.5), Row("m", "what", "nobody", note="not measured")]
    content = {
        "schema": run.SCHEMA,
        "quick": True,
        "environment": {"hardware": "a machine", "threads": 1, "torch": "2", "transformers": "5"},
        "rows": [asdict(row) for row in rows],
    }
    asked = []
    monkeypatch.setattr("litestage.bench.bench", lambda quick: asked.append(quick) or content)
    result = CliRunner().invoke(app, ["bench", "--quick", "--json", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert asked == [True]
    assert json.loads(result.output.splitlines()[-1]) == json.loads(json.dumps(content))
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["schema"] == "litestage.bench/1"
    markdown = (tmp_path / "out" / "bench.md").read_text()
    assert markdown == as_markdown(content)
    assert "on a machine, 1 threads" in markdown
    assert "not measured" in markdown
    assert (tmp_path / "out" / "bench.svg").read_text() == as_svg(content)


def test_a_folder_that_cannot_be_written_is_told_before_the_bench_runs(monkeypatch, tmp_path):
    monkeypatch.setattr("litestage.bench.bench", lambda quick: pytest.fail("it ran"))
    (tmp_path / "file").touch()
    with pytest.raises(LiteStageError, match="file"):
        run_bench(False, tmp_path / "file" / "out", as_json=False)


# --- three stages, and what their tokens are worth ---


def test_in_float32_the_tokens_are_generates_own(small):
    made = shape.Shape.made(2, torch.float32)
    for length, shared, rows, limit in chain.STAGES:
        asked = shape.prompts(length, shared, rows)
        assert made.ours(asked, limit)[1] == made.theirs(asked, limit)


def test_without_llama_cpp_its_row_stays_in_the_table(small, monkeypatch):
    monkeypatch.setattr(chain, "missing", lambda: "llama-cpp-python not installed")
    made = shape.Shape.made(2, torch.bfloat16)
    measured, absent = chain.chain_rows(made, repeats=2)
    assert measured.ratio is not None
    assert "float32 chooses otherwise for" in measured.note
    assert (absent.against, absent.bar, absent.ratio) == (chain.LLAMA, 1.0, None)
    assert absent.note == "not measured: llama-cpp-python not installed"


def test_float32_judges_a_text_token_by_token(small):
    made = shape.Shape.made(2, torch.float32)
    asked = shape.prompts(6, 0, 2)
    own = made.theirs(asked, 5)
    judge = rounding.Judge(made.rival)
    assert judge.missed(asked, own) == (0, 0.0)
    assert judge.rounding(asked, own) == 0.0  # it is float32 itself
    other = [(*own[0][:2], (own[0][2] + 1) % 50_000, *own[0][3:]), own[1]]
    count, short = judge.missed(asked, other)
    assert 1 <= count <= 3  # the one that was changed, and what its change made wrong behind it
    assert short > 0
    assert rounding.differing(other, own) == 0.1


FEW = ["engine=cpu", "search.calibration=8", "search.confirm=0"]
"""Few questions, to take what drafts are looked up in from."""


class Asked:
    """In llama.cpp's place: keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, limit):
        self.asked.append((prompts, limit))

    def close(self):
        pass


def test_llama_cpp_is_asked_for_as_many_steps_after_the_prompts_that_ours_met(monkeypatch):
    work, fakes = Workbench.open(load_config(FEW)), {kind: Asked() for kind in real.FORMATS}
    monkeypatch.setattr(real, "missing", lambda: None)
    monkeypatch.setattr(real, "_in_formats", lambda folder, failed: fakes)
    rows = real.llama_rows({"reference": work, "in 8 bits": work}, 2)
    expected = {"bfloat16": 1.5, "Q8_0": 1.5, "Q4_0": 1.0, "Q4_K_M": 1.0}
    drafted = "whole question, full+prefix+lookup"
    assert [(row.model, row.what, row.against, row.bar) for row in rows] == [
        (name, what, f"llama.cpp, {kind}, options as parallel sequences", bars.get(kind))
        for name, what, bars in (
            ("reference", "whole question", expected),
            ("reference", drafted, expected),
            ("in 8 bits", "whole question", {}),
            ("in 8 bits", drafted, {}),
        )
        for kind in expected
    ]
    assert all(row.ratio < 0.1 for row in rows)  # what only keeps what it is asked takes no time
    full = work.session.contestant(work.pipeline, Plan.full(work.pipeline.stage_names))
    traces = full.answer(work.task.questions("test")[:3])
    for fake in fakes.values():
        assert [limit for _, limit in fake.asked] == [max(stage.tokens) for trace in traces for stage in trace.stages]
        lengths = [tuple(map(len, prompts)) for prompts, _ in fake.asked]
        assert lengths == [tuple(stage.prompt_tokens) for trace in traces for stage in trace.stages]


class Fails(Asked):
    def generate(self, prompts, limit):
        raise LiteStageError("llama.cpp: it fell")


def test_a_format_at_which_llama_cpp_falls_stays_in_the_table_beside_the_others(monkeypatch):
    work = Workbench.open(load_config(FEW))
    monkeypatch.setattr(real, "missing", lambda: None)

    def in_formats(folder, failed):
        failed["Q4_0"] = "llama.cpp: it could not be written"
        return {"bfloat16": Asked(), "Q8_0": Fails(), "Q4_K_M": Asked()}

    monkeypatch.setattr(real, "_in_formats", in_formats)
    whole, eight, four, four_mixed, *_ = real.llama_rows({"reference": work}, 1)
    assert whole.ratio is not None
    assert four_mixed.ratio is not None
    assert (eight.ratio, eight.note, eight.bar) == (None, "not measured: llama.cpp: it fell", 1.5)
    assert (four.ratio, four.note) == (None, "not measured: llama.cpp: it could not be written")


def dies(path, vocabulary, threads):
    os._exit(11)


def test_a_death_of_llama_cpp_is_one_sentence_and_not_the_benchs(small, monkeypatch):
    monkeypatch.setattr(chain, "missing", lambda: None)
    monkeypatch.setattr(chain, "write_gguf", lambda model, path: None)
    monkeypatch.setattr(llama_worker, "load", dies)
    ours, theirs = chain.chain_rows(shape.Shape.made(2, torch.bfloat16), repeats=2)
    assert ours.ratio is not None
    assert theirs.ratio is None
    assert theirs.note.startswith("not measured: llama.cpp: A process in the process pool was terminated abruptly")


def test_the_file_for_llama_cpp_is_the_model_as_transformers_reads_such_files(tmp_path):
    written = tiny_model("llama")
    llama.write_gguf(written, tmp_path / "model.gguf")
    options = {"gguf_file": "model.gguf", "dtype": torch.float32}
    read = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=False, **options)
    ids = torch.tensor([random_prompts([12])[0]])
    with torch.inference_mode():
        torch.testing.assert_close(read(ids).logits, written(ids).logits)


@pytest.mark.skipif(llama.missing() is not None, reason=str(llama.missing()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_llama_cpp_runs_the_same_model(small, tmp_path, dtype):
    made = shape.Shape.made(2, dtype)
    llama.write_gguf(made.rival, tmp_path / "shape.gguf")
    loaded = llama.Llama(tmp_path / "shape.gguf", 50_000)
    apart = float(chain.same_model(made, loaded).split("at most ")[1].split("%")[0])
    assert apart < (1 if dtype == torch.float32 else 15)
    if dtype == torch.float32:  # its cache is float16: near-ties may fall otherwise
        for length, shared, rows, limit in chain.STAGES:
            asked = shape.prompts(length, shared, rows)
            assert rounding.differing(loaded.generate(asked, limit), made.theirs(asked, limit)) < 0.2
    loaded.close()
