"""kill -9 at any moments of a search: run again, it ends with the same plan, and what was kept is not computed again.

The searches are real processes, forked from one that has made the imports, so that a run takes seconds.
"""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from itertools import groupby

import pytest
import yaml

SEED = 20261
KILLS = {"greedy": 7, "pareto": 3}
OPTIONS = {
    "greedy": ["search.calibration=8", "search.max_budget=2", "engine.batch_size=4"],
    "pareto": ["search.strategy=pareto", "search.calibration=32", "search.max_budget=3", "engine.batch_size=8"],
}

SEARCHES = """
import json, os, sys
import litestage.runner.journal, litestage.runner.module, litestage.search.record, scipy.optimize
import litestage.session.workbench
from litestage.cli import main
while line := sys.stdin.readline():
    child = os.fork()
    if not child:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        sys.argv = ["litestage", *json.loads(line)]
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        os._exit(code)
    print(child, flush=True)
    sys.stdin.readline()  # until then an ended child keeps its number, so that the kill can't hit another process
    print(os.waitpid(child, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def start():
    """Runs ``litestage search`` in a process of its own; killed some seconds after so many batches if told."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SEARCHES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:

        def run(folder, strategy, kill_at=None):
            command = ["search", *OPTIONS[strategy], "search.max_accuracy_drop=0.1", "search.finalists=0"]
            command += [f"store={folder / 'store.sqlite'}", f"output={folder}"]
            parent.stdin.write(json.dumps(command) + "\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            if kill_at is not None:
                batches_kept, then = kill_at
                while len(batches(records(folder))) < batches_kept and not (folder / "plan.yaml").exists():
                    time.sleep(0.005)
                time.sleep(then)
                os.kill(child, signal.SIGKILL)
            parent.stdin.write("\n")
            parent.stdin.flush()
            return os.waitstatus_to_exitcode(int(parent.stdout.readline()))

        yield run
        parent.stdin.close()


@pytest.fixture(scope="module")
def step_costs(tmp_path_factory):
    """A store that holds step costs and nothing else: written down, so that no choice hangs on this machine's clock."""
    from litestage.profile import StepCosts
    from litestage.session import Session

    path = tmp_path_factory.mktemp("costs") / "store.sqlite"
    each = (1e-3, 0.0, 2e-4, 0.0, 0.0, 3e-4, 0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("litestage.session.session.measure_step_costs", lambda engine: StepCosts(12, each, each, 0.0))
        Session.open("reference", store=path).step_costs()
    return path


def begin(folder, step_costs):
    folder.mkdir()
    with sqlite3.connect(step_costs) as source, sqlite3.connect(folder / "store.sqlite") as target:
        source.backup(target)
    source.close()
    target.close()
    return folder


def records(folder):
    """Keys in the order they were written, with the time: those of one batch have the same."""
    connection = sqlite3.connect(folder / "store.sqlite")
    rows = connection.execute("SELECT key, written FROM results ORDER BY written, rowid").fetchall()
    connection.close()
    return dict(rows)


def batches(written):
    return [{key for key, _ in group} for _, group in groupby(written.items(), key=lambda item: item[1])]


def plan_hash(folder):
    from litestage.plan import load_plan

    return load_plan(folder / "plan.yaml").hash


@pytest.mark.slow
@pytest.mark.parametrize("strategy", OPTIONS)
def test_a_search_killed_again_and_again_goes_on_and_ends_with_the_same_plan(tmp_path, start, step_costs, strategy):
    whole = begin(tmp_path / "whole", step_costs)
    assert start(whole, strategy) == 0
    expected, order = plan_hash(whole), batches(records(whole))
    assert yaml.safe_load((whole / "plan.yaml").read_text())["stages"]  # something was searched
    assert len(order) > 10
    assert len([key for key in records(whole) if key.startswith("step_costs/")]) == 1  # what was kept was used
    # Moments by progress, not by the clock: early, late and in between however busy the machine is.
    chance, kills = random.Random(SEED), KILLS[strategy]
    moments = [(len(order) * (kill + chance.random()) / kills, 0.1 * chance.random()) for kill in range(kills)]
    print(
        f"seed {SEED}, {strategy}: killed after {', '.join(f'{at:.1f}' for at, _ in moments)} of {len(order)} batches"
    )
    folder = begin(tmp_path / "killed", step_costs)
    before, found_in_the_middle = records(folder), 0
    for moment in moments:
        code = start(folder, strategy, kill_at=moment)
        kept = records(folder)
        done = len(batches(kept))
        # Whole batches, none left out: what the kill took is the one batch that was being computed.
        assert set(kept) == set().union(*order[:done]), moment
        assert {key: kept[key] for key in before} == before, moment  # not computed again
        found_in_the_middle += code == -signal.SIGKILL and 1 < done < len(order)
        before = kept
    assert found_in_the_middle >= kills // 2
    assert start(folder, strategy) == 0
    after = records(folder)
    assert plan_hash(folder) == expected
    assert {key: after[key] for key in before} == before
    assert batches(after) == order  # every batch once


def test_a_comparison_that_is_killed_while_its_report_is_drawn_keeps_the_times_it_measured(
    litestage, tmp_path, monkeypatch
):
    """Drawing takes seconds, when all else is done: the same command has nothing left to measure."""
    from litestage.comparison import write

    command = ("compare", "methods=[full,uniform:2]", "questions=4", "latency_questions=2", "store=s", "output=out")

    def seconds():
        return [method["latency_s"] for method in json.loads((tmp_path / "out/results.json").read_text())["methods"]]

    def killed(runs, folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as drawing:
        drawing.setattr(write, "write_report", killed)
        code, _, err = litestage(*command)
    assert code == 130
    assert "what was finished is kept" in err
    measured = seconds()
    code, _, err = litestage(*command)
    assert code == 0, err
    assert seconds() == measured
    assert (tmp_path / "out/report.html").is_file()
