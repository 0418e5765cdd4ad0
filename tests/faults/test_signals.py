"""SIGTERM and SIGKILL at random moments of a comparison: the same command ends with what an undisturbed one finds."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

PROGRAM = "from litestage.cli import main; main()"
OPTIONS = ["compare", "methods=[full,uniform:2]", "questions=40", "latency_questions=6", "engine.batch_size=4"]

pytestmark = pytest.mark.slow


def start(folder):
    command = [sys.executable, "-c", PROGRAM, *OPTIONS, f"output={folder / 'out'}", f"store={folder / 'store.sqlite'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def kept(folder):
    """How many records the store has."""
    if not (folder / "store.sqlite").is_file():
        return 0
    with sqlite3.connect(f"file:{folder / 'store.sqlite'}?mode=ro", uri=True, timeout=30) as connection:
        try:
            (count,) = connection.execute("SELECT count(*) FROM results").fetchone()
        except sqlite3.OperationalError:  # not made yet
            count = 0
    connection.close()
    return count


def answers(folder):
    lines = [json.loads(line) for line in (folder / "out" / "samples.jsonl").read_text().splitlines()]
    return sorted((line["method"], line["id"], line["answer"], str(line["tokens"])) for line in lines)


def test_a_comparison_that_is_ended_again_and_again_finds_what_an_undisturbed_one_does(tmp_path):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    whole.mkdir()
    disturbed.mkdir()
    with start(whole) as running:
        running.communicate(timeout=300)
    assert running.returncode == 0
    total, chance = kept(whole), random.Random(7)
    hit, before = 0, 0
    for number, how in enumerate([signal.SIGKILL, signal.SIGTERM] * 3):
        with start(disturbed) as running:
            # Moments by progress, not by the clock: the same however busy the machine is.
            until = total * (number + chance.random()) / 7
            while running.poll() is None and kept(disturbed) <= until:
                time.sleep(0.01)
            running.send_signal(how)
            _, errors = running.communicate(timeout=300)
        hit += running.returncode in (-how, 128 + how)
        assert "Traceback" not in errors
        assert not (disturbed / "out" / "results.json").exists() or running.returncode == 0
        assert kept(disturbed) >= before or running.returncode == 0  # a finished run takes its journal away
        before = kept(disturbed)
    assert hit >= 3
    with start(disturbed) as running:
        running.communicate(timeout=300)
    assert running.returncode == 0
    assert answers(disturbed) == answers(whole)
    results = json.loads((disturbed / "out" / "results.json").read_text())
    assert [method["latency_n"] for method in results["methods"]] == [6, 6]
