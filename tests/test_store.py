"""The result store: found again after anything, never for anything else."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from test_parity import PROMPTS
from tiny import Characters, random_model, staged_model

from litestage.engine import Decoding, Engine, Request
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, SkipSet, StagePlan
from litestage.store import ResultStore, ReusingEngine, default_store_path

RECORDS = {f"key{number}": {"tokens": [number, 2], "confidences": [0.1 + 0.2, 1 / 3]} for number in range(1200)}


# --- the file ---


def test_records_survive_reopening_to_the_last_digit(tmp_path):
    ResultStore(tmp_path / "deep" / "results.sqlite").put(RECORDS)
    store = ResultStore(tmp_path / "deep" / "results.sqlite")
    assert store.get([*RECORDS, "absent"]) == RECORDS  # more keys than one query takes
    assert len(store) == len(RECORDS)
    assert (store.hits, store.misses) == (len(RECORDS), 1)


def test_a_later_record_replaces_an_earlier_one():
    store = ResultStore()
    store.put({"key": {"tokens": [1]}})
    store.put({"key": {"tokens": [2]}})
    assert store.get(["key"]) == {"key": {"tokens": [2]}}
    assert len(store) == 1


@pytest.mark.parametrize(
    "damage", ["record = substr(record, 1, length(record) - 3)", "record = x'00'", "checksum = checksum + 1"]
)
def test_a_damaged_record_is_absent_and_can_be_written_anew(tmp_path, damage):
    path = tmp_path / "results.sqlite"
    ResultStore(path).put({"good": {"tokens": [1]}, "bad": {"tokens": [2]}})
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE results SET {damage} WHERE key = 'bad'")
    connection.close()
    store = ResultStore(path)
    assert store.get(["good", "bad"]) == {"good": {"tokens": [1]}}
    store.put({"bad": {"tokens": [3]}})
    assert store.get(["bad"]) == {"bad": {"tokens": [3]}}


def test_a_file_that_is_not_a_store_is_named(tmp_path):
    path = tmp_path / "results.sqlite"
    path.write_text("This is somebody's diary." * 100)
    with pytest.raises(LiteStageError) as error:
        ResultStore(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert path.read_text().startswith("This is somebody's diary.")


def test_the_default_path_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_store_path() == tmp_path / "litestage" / "results.sqlite"


WRITER = """
import sys
from litestage.store import ResultStore
name, path, batches = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = ResultStore(path)
print("open", flush=True)
sys.stdin.readline()
for batch in range(batches):
    store.put({f"{name}/{batch}/{row}": {"tokens": [batch] * 50, "row": row} for row in range(10)})
    if batch == 20:
        print("twenty", flush=True)
"""


def writer(name, path, batches):
    """A process that has the store open and waits for a line before it writes."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, name, str(path), str(batches)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_write_at_once_and_one_is_killed_in_the_middle(tmp_path):
    """Both processes' records are there; of the one that kill -9 ended, whole batches up to the end."""
    path = tmp_path / "results.sqlite"
    with writer("steady", path, 200) as steady, writer("killed", path, 10**9) as killed:
        for process in (steady, killed):
            assert process.stdout.readline() == "open\n"
        for process in (steady, killed):
            process.stdin.write("go\n")
            process.stdin.flush()
        assert killed.stdout.readline() == "twenty\n"
        time.sleep(0.05)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert steady.wait() == 0
    store = ResultStore(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        keys = [key for (key,) in connection.execute("SELECT key FROM results")]
    connection.close()
    assert len(store.get(keys)) == len(keys)  # every record reads
    assert sum(key.startswith("steady/") for key in keys) == 2000
    batches = sorted(int(key.split("/")[1]) for key in keys if key.startswith("killed/"))
    assert batches == [batch for batch in range(max(batches) + 1) for _ in range(10)]
    assert max(batches) >= 20
    store.put({"after": {"tokens": [1]}})
    assert len(store) == len(keys) + 1


# --- what is found again ---


class Counting(Engine):
    """An engine that counts the rows it is asked to run."""

    ran = 0

    def generate(self, requests, plan, decoding, **options):
        self.ran += len(requests)
        return super().generate(requests, plan, decoding, **options)


def counting(store, model=None, fingerprint="tiny"):
    return ReusingEngine(Counting(model or staged_model().model, Characters()), fingerprint, store)


def requests_of(prompts, limit=8):
    return [Request(prompt, limit, group=row, stream=f"q{row}") for row, prompt in enumerate(prompts)]


REQUESTS = requests_of(PROMPTS[:3])
PLAN = StagePlan(SkipSet(mhsa=(1,)))


@pytest.fixture
def warm():
    """An engine whose store holds ``REQUESTS`` under ``PLAN``."""
    reusing = counting(ResultStore())
    reusing.generate(REQUESTS, PLAN, Decoding())
    reusing.engine.ran = 0
    return reusing


def test_the_same_again_is_found_and_is_the_same(warm):
    again = warm.generate(REQUESTS, PLAN, Decoding())
    assert warm.engine.ran == 0
    fresh = warm.engine.generate(REQUESTS, PLAN, Decoding(), confidences=True).generations
    assert [(row.tokens, row.text, row.stop, row.prompt_tokens) for row in again] == [
        (row.tokens, row.text, row.stop, row.prompt_tokens) for row in fresh
    ]


def test_only_what_is_missing_is_run(warm):
    more = requests_of(PROMPTS[:5])
    rows = warm.generate(more[::-1], PLAN, Decoding())
    assert warm.engine.ran == 2
    assert [row.tokens for row in rows] == [
        row.tokens for row in warm.engine.generate(more[::-1], PLAN, Decoding()).generations
    ]


def scaled(ratio):
    return replace(PLAN, compensation="scale", tensors={"mhsa.1": torch.tensor(ratio)})


@pytest.mark.parametrize(
    "change",
    [
        {"requests": requests_of(PROMPTS[3:6])},
        {"requests": requests_of([prompt[:-1] for prompt in PROMPTS[:3]])},
        {"requests": requests_of(PROMPTS[:3], limit=9)},
        {"plan": StagePlan()},
        {"plan": StagePlan(SkipSet(ffn=(1,)))},
        {"plan": StagePlan(SkipSet(mhsa=(1, 2)))},
        {"plan": replace(PLAN, phase="decode")},
        {"plan": scaled(1.5)},
        {"decoding": Decoding(stop=("z",))},
        {"decoding": Decoding(temperature=1.0)},
        {"engine": {"fingerprint": "another"}},
        {"engine": {"model": random_model(staged_model().model.config).to(torch.bfloat16)}},
    ],
    ids=["prompt", "shorter", "limit", "full", "kind", "more", "phase", "scale", "stop", "sampling", "model", "dtype"],
)
def test_nothing_is_found_for_anything_else(warm, change):
    if "engine" in change:
        warm = counting(warm.store, **change["engine"])
    warm.generate(change.get("requests", REQUESTS), change.get("plan", PLAN), change.get("decoding", Decoding()))
    assert warm.engine.ran == len(REQUESTS)


def test_a_compensations_numbers_are_part_of_the_key(warm):
    warm.generate(REQUESTS, scaled(1.5), Decoding())
    warm.engine.ran = 0
    warm.generate(REQUESTS, scaled(1.25), Decoding())
    assert warm.engine.ran == len(REQUESTS)
    warm.generate(REQUESTS, scaled(1.5), Decoding())
    assert warm.engine.ran == len(REQUESTS)


@pytest.mark.parametrize("window", [1, 3, 5])
@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.35, 0.6, 1.0])
def test_in_float32_one_record_serves_every_exit_rule(warm, threshold, window):
    plan = replace(PLAN, exit=ExitRule(threshold=threshold, window=window))
    cut = warm.generate(REQUESTS, plan, Decoding())
    assert warm.engine.ran == 0
    ran = warm.engine.generate(REQUESTS, plan, Decoding()).generations
    assert [(row.tokens, row.text, row.stop) for row in cut] == [(row.tokens, row.text, row.stop) for row in ran]


def test_a_record_made_under_an_exit_rule_is_uncut():
    reusing = counting(ResultStore())
    always = ExitRule(threshold=1.0, window=2)
    assert {row.stop for row in reusing.generate(REQUESTS, replace(PLAN, exit=always), Decoding())} == {"exit"}
    assert {len(row.tokens) for row in reusing.generate(REQUESTS, PLAN, Decoding())} == {8}
    assert reusing.engine.ran == len(REQUESTS)


def test_in_bfloat16_the_exit_rule_and_the_batch_are_part_of_the_key():
    """Batch shape can change tokens there, so a record holds for its own batch only."""
    reusing = counting(ResultStore(), random_model(staged_model().model.config).to(torch.bfloat16))
    ask = [
        (REQUESTS, PLAN),
        (REQUESTS, replace(PLAN, exit=ExitRule(threshold=0.3))),
        (REQUESTS, replace(PLAN, exit=ExitRule(threshold=0.4))),
        (REQUESTS[:2], PLAN),
    ]
    for requests, plan in ask:
        before = reusing.engine.ran
        first = reusing.generate(requests, plan, Decoding())
        assert reusing.engine.ran == before + len(requests)
        assert reusing.generate(requests, plan, Decoding()) == first
        assert reusing.engine.ran == before + len(requests)


def test_sampled_rows_are_kept_by_seed_and_stream():
    reusing, hot = counting(ResultStore()), Decoding(temperature=1.0, seed=1)
    first = reusing.generate(REQUESTS, PLAN, hot)
    assert reusing.generate(REQUESTS, PLAN, hot) == first
    assert reusing.engine.ran == 3
    other_stream = [replace(request, stream=f"{request.stream}/2") for request in REQUESTS]
    assert [row.tokens for row in reusing.generate(other_stream, PLAN, hot)] != [row.tokens for row in first]
    assert [row.tokens for row in reusing.generate(REQUESTS, PLAN, replace(hot, seed=2))] != [
        row.tokens for row in first
    ]
    assert reusing.engine.ran == 9


# --- neighbours ---


def test_a_neighbours_text_is_a_draft_and_changes_nothing(warm):
    """What full depth wrote is verified under the plan: the same record as without it."""
    store = ResultStore()
    drafted = counting(store)
    full = drafted.generate(REQUESTS, StagePlan(), Decoding())
    seen = []
    generate = drafted.engine.generate
    drafted.engine.generate = lambda requests, *rest, **options: (
        seen.extend(requests) or generate(requests, *rest, **options)
    )
    verified = drafted.generate(REQUESTS, PLAN, Decoding(), [StagePlan(SkipSet(ffn=(0,))), StagePlan()])
    assert [request.draft for request in seen] == [row.tokens for row in full]
    plain = warm.generate(REQUESTS, PLAN, Decoding())
    assert [(row.tokens, row.text, row.stop) for row in verified] == [(row.tokens, row.text, row.stop) for row in plain]
    assert drafted.generate(REQUESTS, PLAN, Decoding()) == verified  # kept under the plan's own key
