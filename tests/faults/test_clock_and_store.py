"""A clock that jumps, a store that is damaged, and two commands on one store and one folder."""

import itertools
import json
import os
import random
import subprocess
import sys
import time

import pytest

from litestage.errors import LiteStageError
from litestage.store import ResultStore
from litestage.store.upkeep import prune, store_stats

COMPARE = ["compare", "methods=[full,uniform:2]", "questions=6", "latency_questions=3", "engine.batch_size=3"]
DAY_S = 86_400.0


def answers(folder):
    """Who answered what, question by question, without what the clock said."""
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    return {(line["method"], line["id"]): line["answer"] for line in lines}


@pytest.fixture
def jumping_clock(monkeypatch):
    """The time of day goes a day back and two days on, whenever somebody looks."""
    jumps, real = itertools.cycle((-DAY_S, 2 * DAY_S, 0.0, -365 * DAY_S)), time.time
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))


def test_durations_do_not_hang_on_the_time_of_day(litestage, tmp_path, jumping_clock):
    began = time.perf_counter()
    code, _, errors = litestage(*COMPARE, f"store={tmp_path}/store.sqlite", f"output={tmp_path}/out")
    took = time.perf_counter() - began
    assert code == 0, errors
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    for method in results["methods"]:
        assert all(0 < seconds < took for seconds in method["latency_s"].values())
        for stage in method["stages"].values():
            assert 0 < stage["prefill_s"] + stage["decode_s"] < took
    traces = [json.loads(line) for line in (tmp_path / "out" / "traces.jsonl").read_text().splitlines()]
    assert traces


def test_a_record_of_the_future_is_not_old(tmp_path, monkeypatch):
    store = ResultStore(tmp_path / "store.sqlite")
    real = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: real() + 30 * DAY_S)
        store.put({"a": {"tokens": [1]}})
    assert prune(store, older_than_s=DAY_S).old == 0
    assert store.get(["a"]) == {"a": {"tokens": [1]}}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store as a comparison leaves it, in one file, and what that comparison found."""
    from litestage.cli import main

    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        options = [*COMPARE, "latency_questions=0", f"store={folder}/store.sqlite", f"output={folder}/out"]
        patch.setattr(sys, "argv", ["litestage", *options])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code
    store = ResultStore(folder / "store.sqlite")
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.connection.close()
    return (folder / "store.sqlite").read_bytes(), answers(folder / "out")


def damaged(content, seed):
    """The file with three stretches of it overwritten at random."""
    chance, damaged = random.Random(seed), bytearray(content)
    for _ in range(3):
        at, length = chance.randrange(0, len(content) - 512), chance.choice((1, 16, 512))
        damaged[at : at + length] = chance.randbytes(length)
    return bytes(damaged)


def test_a_damaged_file_gives_what_was_put_or_nothing_or_one_sentence(tmp_path, kept):
    (tmp_path / "sound.sqlite").write_bytes(kept[0])
    sound = ResultStore(tmp_path / "sound.sqlite")
    names = keys(sound)
    expected, refused = sound.get(names), []

    def use(path):
        store = ResultStore(path)
        found = store.get(names)
        assert {name: expected[name] for name in found} == found, path
        store.put({"new": {"tokens": [1]}})
        store_stats(store)
        prune(store, older_than_s=0.0)

    for seed in range(80):
        path = tmp_path / f"{seed}.sqlite"
        path.write_bytes(damaged(kept[0], seed))
        try:
            use(path)
        except LiteStageError as error:
            refused.append((path, str(error)))
    assert all(str(path) in told and "set store=" in told for path, told in refused)
    assert 10 < len(refused) < 80


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_store_is_one_sentence_or_worked_around_and_never_an_answer(litestage, tmp_path, kept, seed):
    (tmp_path / "store.sqlite").write_bytes(damaged(kept[0], seed))
    options = [*COMPARE, "latency_questions=0", f"store={tmp_path}/store.sqlite", f"output={tmp_path}/out"]
    code, _, errors = litestage(*options)
    if code == 0:
        assert answers(tmp_path / "out") == kept[1]
        return
    assert code == 2
    told = [line for line in errors.splitlines() if line.startswith("litestage:")]
    assert len(told) == 1, errors
    assert "store.sqlite" in told[0]
    assert "set store=" in told[0]
    assert not (tmp_path / "out" / "results.json").exists()


@pytest.mark.slow
def test_two_commands_at_once_on_one_store_and_one_folder_both_end_and_leave_whole_results(tmp_path, kept):
    program = "from litestage.cli import main; main()"
    command = [sys.executable, "-c", program, *COMPARE, f"store={tmp_path}/store.sqlite", f"output={tmp_path}/out"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"}) for _ in range(2)]
    for running in both:
        _, errors = running.communicate(timeout=300)
        assert running.returncode == 0, errors
        assert "Traceback" not in errors
    assert answers(tmp_path / "out") == kept[1]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [method["latency_n"] for method in results["methods"]] == [3, 3]
    assert not [key for key in keys(ResultStore(tmp_path / "store.sqlite")) if key.startswith("journal/")]
    assert not list((tmp_path / "out").glob(".*"))  # nothing that was being written is left


def keys(store):
    return [key for (key,) in store.connection.execute("SELECT key FROM results")]
