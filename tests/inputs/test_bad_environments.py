"""Environment variables that point nowhere or at the wrong thing."""

from pathlib import Path

import pytest

from litestage.data import load_task


@pytest.mark.parametrize("value", ["nowhere", "file", "~nobody/x", "a\nb", " "])
def test_a_data_folder_that_is_none_is_one_sentence(one_sentence, tmp_path, monkeypatch, value):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LITESTAGE_DATA", value)
    one_sentence(lambda: load_task("obqa").questions("test"), "LITESTAGE_DATA")


def test_a_data_file_that_is_a_folder_or_no_text_is_one_sentence(one_sentence, tmp_path, monkeypatch, not_text):
    monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
    (tmp_path / "openbookqa" / "test.jsonl").mkdir(parents=True)
    one_sentence(lambda: load_task("obqa").questions("test"), "openbookqa")
    (tmp_path / "openbookqa" / "test.jsonl").rmdir()
    for content in not_text.values():
        (tmp_path / "openbookqa" / "test.jsonl").write_bytes(content)
        one_sentence(lambda: load_task("obqa").questions("test"), "test.jsonl", "UTF-8")


@pytest.mark.parametrize(
    "row",
    [
        '{"id": 5}',
        '{"id": "a", "question_stem": "q", "choices": [], "answerKey": "A"}',
        '{"id": "a", "question_stem": "q", "choices": {"label": ["A"], "text": [5]}, "answerKey": "A"}',
        '{"id": "a", "question_stem": "q", "choices": {"label": "A", "text": "x"}, "answerKey": 5}',
        '{"id": [], "question_stem": "q", "choices": {"label": ["A"], "text": ["x"]}, "answerKey": "A"}',
    ],
)
def test_a_published_row_that_is_none_is_one_sentence(one_sentence, tmp_path, monkeypatch, row):
    monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
    (tmp_path / "openbookqa").mkdir()
    (tmp_path / "openbookqa" / "test.jsonl").write_text(row)
    one_sentence(lambda: load_task("obqa").questions("test"), "test.jsonl", "row 1")


def test_a_compiler_that_is_no_command_is_one_sentence(one_sentence, monkeypatch):
    from litestage.decoder.native import compiled

    monkeypatch.setenv("CC", 'gcc "-O2')
    one_sentence(lambda: compiled(Path("native.c")), "CC is 'gcc")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WANDB_MODE", "sometimes"), ("WANDB_BASE_URL", "http://["), ("NETRC", "/proc"), ("WANDB_DIR", "/proc/nowhere")],
)
def test_a_tracker_that_cannot_work_is_said_and_never_fatal(tmp_path, monkeypatch, capsys, variable, value):
    from run_folders import compared

    from litestage.report import read_run
    from litestage.tracking import track

    def refuse(*_, **__):
        raise ValueError(f"{variable} is\n{value}")

    monkeypatch.setenv(variable, value)
    monkeypatch.setattr("litestage.tracking.wandb_run._started", refuse)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    track("wandb", read_run(compared(tmp_path / "run")), "compare")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "all results are in" in err


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"SLURM_STEP_NUM_TASKS": "abc"}, "SLURM_STEP_NUM_TASKS is 'abc'"),
        ({"SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS is ''"),
        ({"SLURM_STEP_NUM_TASKS": "-2"}, "SLURM_STEP_NUM_TASKS is '-2'"),
        ({"TORCHELASTIC_RUN_ID": "x"}, "RANK is ''"),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "LOCAL_RANK": "y", "WORLD_SIZE": "1"}, "LOCAL_RANK is 'y'"),
    ],
    ids=str,
)
def test_what_torchrun_or_srun_did_not_write_is_one_sentence(refused, monkeypatch, variables, named):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused("compare", "methods=[full]", names=[named])
