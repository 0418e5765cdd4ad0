"""Disks that fill up and folders that cannot be written: one sentence, exit code 2, and what was finished is kept."""

import json
import os
import shutil
import subprocess
import sys

import pytest

PROGRAM = "from litestage.cli import main; main()"
COMPARE = ["compare", "methods=[full,uniform:2]", "questions=24", "latency_questions=0", "engine.batch_size=4"]

pytestmark = pytest.mark.slow


def litestage(*options):
    command = [sys.executable, "-c", PROGRAM, *map(str, options)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def answers(folder):
    """Who answered what, question by question, without what the clock said."""
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return {(line["method"], line["id"]): line["answer"] for line in lines}


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system in memory of so many KiB."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kibibytes):
        options = ["-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(place)]
        tried = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if tried.returncode:
            pytest.skip(f"no file system can be mounted here ({tried.stderr.strip()})")
        return place

    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    yield mount
    subprocess.run(["umount", str(place)], check=False, capture_output=True)


@pytest.mark.parametrize("what", ["store", "output"])
def test_a_disk_that_fills_up_is_one_sentence_and_the_same_command_goes_on_elsewhere(small_disk, tmp_path, what):
    disk = small_disk(96)
    (disk / "something else").write_bytes(bytes(64 * 1024))
    places = {"store": tmp_path / "store.sqlite", "output": tmp_path / "out"}
    full = {**places, what: disk / places[what].name}
    stopped = litestage(*COMPARE, *(f"{name}={path}" for name, path in full.items()))
    assert stopped.returncode == 2, stopped.stderr
    assert "Traceback" not in stopped.stderr
    told = [line for line in stopped.stderr.splitlines() if line.startswith("litestage:")]
    assert len(told) == 1
    assert not (full["output"] / "results.json").exists()
    assert litestage(*COMPARE, *(f"{name}={path}" for name, path in places.items())).returncode == 0
    undisturbed = {"store": tmp_path / "another.sqlite", "output": tmp_path / "whole"}
    assert litestage(*COMPARE, *(f"{name}={path}" for name, path in undisturbed.items())).returncode == 0
    assert answers(places["output"]) == answers(undisturbed["output"])


def test_a_folder_of_results_that_was_whole_stays_whole_when_the_disk_fills_up(small_disk, tmp_path):
    disk = small_disk(4096)
    options = [*COMPARE, f"output={disk / 'out'}", f"store={tmp_path / 'store.sqlite'}"]
    assert litestage(*options).returncode == 0
    before = (disk / "out" / "results.json").read_bytes()
    free = shutil.disk_usage(disk).free
    (disk / "something else").write_bytes(bytes(max(0, free - 4096)))
    stopped = litestage(*options, "seed=1")
    assert stopped.returncode == 2, stopped.stderr
    assert "Traceback" not in stopped.stderr
    kept = disk / "out" / "results.json"
    assert not kept.exists() or json.loads(kept.read_text())["schema"] == "litestage.results/1"
    assert not kept.exists() or kept.read_bytes() == before


def test_a_training_whose_disk_fills_up_says_so_in_one_sentence_and_goes_on_when_there_is_room(small_disk, tmp_path):
    disk = small_disk(4096)
    (disk / "something else").write_bytes(bytes(3200 * 1024))  # leaves room for one checkpoint and not for two
    shape = ["model.architecture.num_hidden_layers=2", "model.architecture.hidden_size=32"]
    options = ["menagerie", *shape, "model.architecture.intermediate_size=64", "model.vocab_size=512"]
    options += ["rows={recall: 4, analyze: 4, summarize: 4}", "data.menagerie=[menagerie_yesno]", "threads=1"]
    command = [sys.executable, "-m", "litestage.training", *options, "steps=6", "save_every=3"]
    command.append(f"output={disk / 'out'}")
    run = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    stopped = subprocess.run(command, **run, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert stopped.returncode == 2, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert "No space left" in stopped.stderr
    assert (disk / "out" / "checkpoint.ckpt").is_file()
    (disk / "something else").unlink()
    again = subprocess.run(command, **run, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert again.returncode == 0, again.stderr
    assert (disk / "out" / "model.safetensors").is_file()
