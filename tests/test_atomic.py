"""Results and plans are there whole or not at all, and a place that cannot be written is one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from litestage.atomic import replacing, write_json, write_text
from litestage.errors import LiteStageError
from litestage.plan import Plan, SkipSet, StagePlan, load_plan, save_plan
from litestage.store import default_store_path


def one_sentence(error):
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "results.json"
    write_json(path, {"n": 1})
    interrupted = False
    try:
        with replacing(path) as beside:
            beside.write_text('{"n": 2, "half')
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        interrupted = True
    assert interrupted
    assert json.loads(path.read_text())["n"] == 1
    write_json(path, {"n": 3})
    assert json.loads(path.read_text())["n"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(self, *_, **__):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LiteStageError) as error:
        write_text(path, "new")
    assert "No space left on device" in one_sentence(error)
    assert str(path) in str(error.value)
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_one_sentence_before_any_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    options = [f"output={tmp_path / 'file' / 'deep'}", f"store={tmp_path / 'store.sqlite'}", "methods=[full]"]
    code = "import sys; from litestage.cli import main; sys.argv = ['litestage', *sys.argv[1:]]; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "compare", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "cannot be written" in done.stderr
    assert "file/deep" in done.stderr


# --- plans ---


def scaled(ratio):
    plan = StagePlan(SkipSet(mhsa=(1,)), compensation="scale", tensors={"mhsa.1": torch.tensor(ratio)})
    return Plan({"recall": plan})


def test_plans_that_differ_in_tensors_only_are_different_plans():
    assert scaled(1.0) == scaled(1.0)
    assert scaled(1.0) != scaled(2.0)
    assert scaled(1.0)["recall"] != scaled(2.0)["recall"]
    assert len({scaled(1.0)["recall"], scaled(1.0)["recall"], scaled(2.0)["recall"]}) == 2
    schedule = {"steps": [{"from": 4, "mhsa": [1], "ffn": [1]}]}
    assert len({StagePlan(SkipSet(mhsa=(1,)), schedule=schedule), StagePlan(SkipSet(mhsa=(1,)))}) == 2


@pytest.mark.parametrize("killed_at", [1, 2])
def test_a_plan_killed_while_it_is_saved_is_never_mixed_with_the_one_before(tmp_path, monkeypatch, killed_at):
    path = tmp_path / "plan.yaml"
    save_plan(scaled(1.0), path)
    replace, moves = os.replace, []

    def killing(*names):
        moves.append(names)
        if len(moves) == killed_at:
            raise KeyboardInterrupt
        replace(*names)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killing)
        with pytest.raises(KeyboardInterrupt):
            save_plan(scaled(2.0), path)
    if killed_at == 1:
        assert load_plan(path) == scaled(1.0)
    else:
        with pytest.raises(LiteStageError, match="belongs to another plan") as error:
            load_plan(path)
        one_sentence(error)
    save_plan(scaled(2.0), path)
    assert load_plan(path) == scaled(2.0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan.safetensors", "plan.yaml"]


def test_a_plan_of_before_tensors_had_a_digest_still_loads(tmp_path):
    path = tmp_path / "plan.yaml"
    save_plan(scaled(1.5), path)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if "digest" not in line))
    assert load_plan(path) == scaled(1.5)


# --- users without a home ---


def test_without_a_home_one_sentence_names_what_to_set(monkeypatch, tmp_path):
    import pwd

    def unknown(*_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(LiteStageError) as error:
        default_store_path()
    assert "store=" in one_sentence(error)
    assert "XDG_CACHE_HOME" in str(error.value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store_path() == tmp_path / "litestage" / "results.sqlite"
