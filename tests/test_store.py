"""The result store: one file that many processes share, that heals, and that can be made smaller."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
import zlib

import pytest

from litestage.errors import LiteStageError
from litestage.store import ResultStore, default_store_path, prune, store_stats

RECORDS = {f"key{number}": {"tokens": [number, 2], "confidences": [0.1 + 0.2, 1 / 3]} for number in range(1200)}


# --- the file ---


def test_records_survive_reopening_to_the_last_digit(tmp_path):
    ResultStore(tmp_path / "deep" / "results.sqlite").put(RECORDS)
    store = ResultStore(tmp_path / "deep" / "results.sqlite")
    assert store.get([*RECORDS, "absent"]) == RECORDS  # more keys than one query takes
    assert len(store) == len(RECORDS)


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
    assert (store_stats(store).records, store_stats(store).damaged) == (2, 1)
    store.put({"bad": {"tokens": [3]}})
    assert store.get(["bad"]) == {"bad": {"tokens": [3]}}
    assert store_stats(store).damaged == 0


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


def unversioned_file(path):
    """A store as it was before records had a time of writing, a model and an engine."""
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE results (key TEXT PRIMARY KEY, record BLOB NOT NULL, checksum INTEGER NOT NULL)"
        )
        packed = zlib.compress(b'{"tokens":[7,2]}', 1)
        connection.execute("INSERT INTO results VALUES ('old', ?, ?)", (packed, zlib.crc32(packed)))
    connection.close()


def test_an_older_file_is_taken_over_with_its_records(tmp_path):
    path = tmp_path / "results.sqlite"
    unversioned_file(path)
    before = time.time()
    store = ResultStore(path)
    store.put({"new": {"tokens": [1]}}, model="feed", engine="plain/1")
    assert ResultStore(path).get(["old", "new"]) == {"old": {"tokens": [7, 2]}, "new": {"tokens": [1]}}
    found = store_stats(store)
    assert {(group.model, group.engine, group.records) for group in found.groups} == {
        ("", "", 1),
        ("feed", "plain/1", 1),
    }
    assert before <= found.oldest <= found.newest <= time.time()  # an unknown age counts from now


def test_another_programs_database_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "contacts.sqlite"
    for table, version in (("friends", 0), ("friends", 1), ("results", 0), ("results", 1), ("results", 7)):
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as connection:
            connection.execute(f"CREATE TABLE {table} (name TEXT)")
            connection.execute(f"PRAGMA user_version = {version}")
        connection.close()
        before = path.read_bytes()
        with pytest.raises(LiteStageError, match="another program's"):
            ResultStore(path)
        assert path.read_bytes() == before


# --- upkeep ---


def aged(path, days_by_key):
    """A store whose records were written that many days ago, with content that does not compress."""
    store = ResultStore(path)
    store.put({key: {"text": os.urandom(1000).hex()} for key in days_by_key})
    with store.connection as connection:
        for key, days in days_by_key.items():
            connection.execute("UPDATE results SET written = ? WHERE key = ?", (time.time() - days * 86400, key))
    return store


def test_stats_tell_kinds_apart(tmp_path):
    store = ResultStore(tmp_path / "results.sqlite")
    store.put({"0a": {}, "0b": {}}, model="feed", engine="plain/1")
    store.put({"step_costs/0c": {}}, model="feed", engine="plain/1")
    assert {group.kind: group.records for group in store_stats(store).groups} == {"generation": 2, "step_costs": 1}
    assert store_stats(store).file_bytes >= (tmp_path / "results.sqlite").stat().st_size


def test_prune_removes_by_age_and_damage_and_nothing_else(tmp_path):
    store = aged(tmp_path / "results.sqlite", {"new": 1, "damaged": 1, "old": 40, "older": 400})
    with store.connection as connection:
        connection.execute("UPDATE results SET checksum = checksum + 1 WHERE key = 'damaged'")
    done = prune(store, older_than_s=30 * 86400)
    assert (done.damaged, done.old, done.beyond_size, done.kept) == (1, 2, 0, 1)
    assert set(store.get(["new", "damaged", "old", "older"])) == {"new"}
    assert prune(store).kept == 1


def test_prune_to_a_size_removes_the_oldest_first_and_the_file_fits(tmp_path):
    store = aged(tmp_path / "results.sqlite", {f"{day}": day for day in range(300)})
    done = prune(store, max_bytes=200_000)
    kept = sorted(int(key) for key in store.get(map(str, range(300))))
    assert kept == list(range(len(kept)))  # the newest
    assert 50 < len(kept) == 300 - done.beyond_size
    assert 100_000 < sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix != ".sqlite-shm") <= 200_000
    assert done.bytes_after <= 200_000 < done.bytes_before
    assert prune(store, max_bytes=0).kept == 0


FORKED = """
import os, sys, time, traceback
from pathlib import Path
from litestage.store import ResultStore, prune
path, ready = Path(sys.argv[1]), Path(sys.argv[2])

def run(jobs):
    children = []
    for job, name in jobs:
        child = os.fork()
        if not child:
            try:
                while not ready.exists():
                    time.sleep(0.001)
                job(name)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    ready.touch()
    sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""
"""Jobs in processes of their own that begin at the same moment."""
CROWD = """
def write(name):
    store = ResultStore(path)
    for batch in range(60):
        store.put({f"{name}/{batch}/{row}": {"tokens": [batch] * 50} for row in range(10)})
        keys = [f"{name}/{at}/{row}" for at in range(batch + 1) for row in range(10)]
        assert len(store.get(keys)) == len(keys), "a record that was written is not found"

def read(name):
    store = ResultStore(path)
    for _ in range(150):
        keys = [f"writer{number}/{batch}/9" for number in range(4) for batch in range(60)]
        found = store.get(keys)
        assert all(record["tokens"] == [int(key.split("/")[1])] * 50 for key, record in found.items())

def tidy(name):
    for _ in range(15):
        prune(ResultStore(path), older_than_s=3600)

run([(write, f"writer{number}") for number in range(4)] + [(read, "reader"), (tidy, "pruner")])
"""


@pytest.mark.slow
def test_writers_readers_and_a_pruner_share_one_file_from_its_first_moment(tmp_path):
    """Six processes open a file that is not there yet; none waits in vain, and no record that may stay is lost."""
    path = tmp_path / "results.sqlite"
    command = [sys.executable, "-c", FORKED + CROWD, str(path), str(tmp_path / "ready")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert (done.returncode, done.stderr) == (0, "")
    assert store_stats(ResultStore(path)).records == 4 * 60 * 10
    assert store_stats(ResultStore(path)).damaged == 0


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


# --- what is promised of its speed ---

MANY = 100_000


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of 100,000 records, of the size of a generation with its confidences."""
    path = tmp_path_factory.mktemp("large") / "results.sqlite"
    store = ResultStore(path)
    record = {"tokens": list(range(40)), "stop": "eos", "confidences": [1 / (at + 1) for at in range(40)]}
    for first in range(0, MANY, 5000):
        store.put({f"{number:06}": {**record, "number": number} for number in range(first, first + 5000)})
    return path


@pytest.mark.slow
def test_a_look_up_among_100_000_records_takes_less_than_a_millisecond(large):
    """Of processor time: what the look-up takes, however busy the machine is."""
    store = ResultStore(large)
    assert len(store) == MANY
    wanted = [f"{number * 7919 % MANY:06}" for number in range(500)]
    began = time.process_time()
    found = [store.get([key])[key]["number"] for key in wanted]
    each = (time.process_time() - began) / len(wanted)
    assert found == [int(key) for key in wanted]
    began = time.process_time()
    assert store.get([f"absent{key}" for key in wanted]) == {}
    assert each < 1e-3
    assert (time.process_time() - began) / len(wanted) < 1e-3


MANY_AT_ONCE = """
def write(name):
    store = ResultStore(path)
    for batch in range(40):
        store.put({f"{name}/{batch}/{row}": {"tokens": [batch] * 50} for row in range(10)})

def read(name):
    store, last = ResultStore(path), 0
    for at in range(40):
        assert store.get([f"{at * 997:06}"])[f"{at * 997:06}"]["number"] == at * 997, "a record is lost"
        keys = [f"writer{number}/{batch}/9" for number in range(4) for batch in range(40)]
        found = store.get(keys)
        assert all(record["tokens"] == [int(key.split("/")[1])] * 50 for key, record in found.items())
        assert len(found) >= last, "what was there is gone"
        last = len(found)

run([(write, f"writer{number}") for number in range(4)] + [(read, "reader")] * 20)
"""


@pytest.mark.slow
def test_4_writers_and_20_readers_at_once_lose_nothing(large, tmp_path):
    command = [sys.executable, "-c", FORKED + MANY_AT_ONCE, str(large), str(tmp_path / "ready")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170)
    assert (done.returncode, done.stderr) == (0, "")
    store = ResultStore(large)
    keys = [f"writer{number}/{batch}/{row}" for number in range(4) for batch in range(40) for row in range(10)]
    assert len(store.get(keys)) == len(keys)
    assert store_stats(store).damaged == 0


def test_journals_are_counted_and_pruned_like_all_else(tmp_path):
    from litestage.store.journal import RunJournal

    store = ResultStore(tmp_path / "results.sqlite")
    store.put({"0a": {"tokens": [1]}}, model="feed", engine="plain/2")
    RunJournal(store, "run", "writer").keep({"q/1": {"full": {}}, "q/2": {"full": {}}}, model="feed", engine="plain/2")
    assert {group.kind: (group.records, group.model) for group in store_stats(store).groups} == {
        "generation": (1, "feed"),
        "journal": (2, "feed"),
    }
    with store.connection as connection:
        connection.execute("UPDATE results SET written = 1 WHERE key LIKE 'journal/%q/1'")
    assert (prune(store, older_than_s=3600).old, len(store)) == (1, 2)
    assert RunJournal(store, "run", "another").take_up() == {"q/2": {"full": {}}}
    assert RunJournal(store, "other", "another").take_up() == {}
