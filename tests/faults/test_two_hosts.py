"""Two hosts, a disk each, give what one device gives; one that is switched off ends the job with its name."""

import json
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from hosts import NoHosts, two_hosts
from test_devices import without_times

from litestage.ranks.hosts import SILENCE_S, Pulse

BIN = Path(sys.executable).parent
SEARCH = ["search", "search.calibration=8", "search.max_budget=2", "search.max_accuracy_drop=0.1", "search.finalists=0"]
COMPARE = ["compare", "methods=[full,uniform:2]", "questions=60", "latency_questions=0", "engine.batch_size=4"]


@pytest.fixture
def switched_on(tmp_path):
    """Switches both hosts on, as often as it is called; their disks stay."""
    on = []

    def switch():
        for host in on:
            host.kill()
        try:
            on[:] = two_hosts(tmp_path)
        except NoHosts as why:
            pytest.skip(f"no hosts can be made here ({why})")
        return on

    yield switch
    for host in on:
        host.kill()


def start(hosts, *options):
    """The same command on each host, as a user gives it."""
    torchrun = [str(BIN / "torchrun"), "--nnodes=2", "--nproc-per-node=1", f"--master-addr={hosts[0].name}"]
    command = [str(BIN / "litestage"), *options, "trainer.num_nodes=2", "store=store.sqlite", "output=out"]
    return [host.start(*torchrun, f"--node-rank={rank}", *command) for rank, host in enumerate(hosts)]


def finished(jobs):
    """What rank 0's host printed, once both have ended well."""
    told = [job.communicate(timeout=300) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], told
    return told[0][0]


def records(folder):
    """Generations in a store, with the time they were written."""
    if not (folder / "store.sqlite").is_file():
        return {}
    with closing(sqlite3.connect(f"file:{folder / 'store.sqlite'}?mode=ro", uri=True, timeout=30)) as connection:
        try:
            return dict(connection.execute("SELECT key, written FROM results WHERE key NOT LIKE '%/%'"))
        except sqlite3.OperationalError:  # not made yet
            return {}


@pytest.mark.slow
def test_a_search_on_two_hosts_ends_with_one_device_s_plan(switched_on, tmp_path, litestage):
    from litestage.session import Session

    costs = tmp_path / "costs.sqlite"
    Session.open("reference", store=costs).step_costs()  # so that no choice hangs on the clock
    hosts = switched_on()
    for copy in (hosts[0].folder / "store.sqlite", tmp_path / "one.sqlite"):
        with closing(sqlite3.connect(costs)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
    assert "Written to" in finished(start(hosts, *SEARCH))
    assert litestage(*SEARCH, f"store={tmp_path}/one.sqlite", f"output={tmp_path}/one")[0] == 0

    def found(folder):
        content = json.loads((folder / "search.json").read_text())
        return {key: value for key, value in content.items() if key not in ("command", "memory")}

    assert found(hosts[0].folder / "out") == found(tmp_path / "one")
    assert not (hosts[1].folder / "out").exists()
    each = [records(host.folder) for host in hosts]
    assert all(each)  # both worked
    assert not set(each[0]) & set(each[1])  # at different questions


@pytest.mark.slow
def test_a_host_that_is_switched_off_ends_the_job_and_the_same_command_completes_it(switched_on, tmp_path, litestage):
    alpha, beta = hosts = switched_on()
    jobs = start(hosts, *COMPARE)
    while len(records(beta.folder)) < 40 and jobs[0].poll() is None:
        time.sleep(0.05)
    beta.unplug()  # nobody is told that its connections are closed
    beta.kill()
    off = time.monotonic()
    _, errors = jobs[0].communicate(timeout=120)
    jobs[1].communicate(timeout=30)
    assert time.monotonic() - off < 30
    assert jobs[0].returncode not in (0, None)
    assert f"litestage: host beta (rank 1) has not been heard of for {SILENCE_S:.0f} s, so the job ends;" in errors
    assert "gloo" not in errors  # what broke because of it is not told, too
    assert not (alpha.folder / "out" / "results.json").exists()

    before = [records(host.folder) for host in hosts]
    assert all(before)
    hosts = switched_on()
    finished(start(hosts, *COMPARE))
    for host, kept in zip(hosts, before, strict=True):
        now = records(host.folder)
        assert {key: now.get(key) for key in kept} == kept  # not lost, and not generated again
    assert litestage(*COMPARE, f"store={tmp_path}/one.sqlite", f"output={tmp_path}/one")[0] == 0
    assert without_times(alpha.folder / "out") == without_times(tmp_path / "one")


# --- who is silent ---


class Clock:
    def __init__(self):
        self.at = 100.0

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pulse(clock):
    return Pulse(["alpha", "alpha", "beta", "beta"], clock)


def seconds(pulse, clock, number, counts=None):
    """So many seconds go by, each with a look, and with counts from the store where it answers."""
    silent = []
    for second in range(number):
        clock.at += 1
        if counts is not None:
            pulse.hear(counts(second))
        silent.append(pulse.silent())
    return silent


def counting(second):
    return [b"%d" % second] * 4


def test_a_rank_whose_count_stands_still_is_silent_after_a_while(pulse, clock):
    silent = seconds(pulse, clock, 40, lambda second: [b"%d" % second] * 3 + [b"%d" % min(second, 10)])
    assert silent == [[3] if second > 10 + SILENCE_S else [] for second in range(40)]


def test_without_the_store_it_is_the_host_that_has_it(pulse, clock):
    seconds(pulse, clock, 5, counting)
    silent = seconds(pulse, clock, 20)
    assert silent == [[0, 1] if second >= SILENCE_S else [] for second in range(20)]


def test_a_host_that_was_slow_for_a_moment_is_heard_again(pulse, clock):
    seconds(pulse, clock, 5, counting)
    assert not any(seconds(pulse, clock, int(SILENCE_S) - 1, lambda second: [b"a"] * 3 + [b"b"]))
    assert not any(seconds(pulse, clock, 30, counting))


def test_who_stood_still_itself_accuses_nobody(pulse, clock):
    seconds(pulse, clock, 5, counting)
    clock.at += 600  # a laptop's lid, a debugger, a swapping machine
    assert pulse.silent() == []
    assert not any(seconds(pulse, clock, 10))
