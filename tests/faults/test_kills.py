"""SIGKILL and SIGTERM at random moments of every command that takes long: the same command ends as an undisturbed one.

Nothing that was finished is lost, nothing is done twice, and what a folder of results holds is whole at any moment.
``LITESTAGE_KILLS=200`` kills that often, over all commands, and ``LITESTAGE_KILLS_SEED`` draws other moments.

The commands are real processes, forked from one that has made the imports, so that a run takes seconds. A moment is a
share of the processor's time that an undisturbed run takes, so that a busy machine hits no other places.
"""

import hashlib
import json
import os
import random
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

KILLS = int(os.environ.get("LITESTAGE_KILLS", "10"))
SEED = int(os.environ.get("LITESTAGE_KILLS_SEED", "7"))
TICKS = os.sysconf("SC_CLK_TCK")

RUNS = """
import json, os, sys
import lm_eval.__main__, lm_eval._cli, lm_eval.evaluator, lm_eval.tasks
import matplotlib.pyplot, scipy.optimize, transformers
import litestage.harness.lm, litestage.report, litestage.runner.journal, litestage.runner.module
import litestage.search.record, litestage.experiment, litestage.training.__main__, litestage.training.run
import litestage.session.workbench
from litestage import cli
mains = {
    "litestage": cli.main,
    "lm_eval": lm_eval.__main__.cli_evaluate,
    "litestage.training": lambda: cli.run_alone(litestage.training.__main__.main),
}
while line := sys.stdin.readline():
    folder, errors, *command = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        sys.argv = command
        try:
            mains[command[0]]()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stderr.flush()
        os._exit(code)
    print(child, flush=True)
    sys.stdin.readline()  # until then an ended child keeps its number, so that the kill can't hit another process
    print(os.waitpid(child, 0)[1], flush=True)
"""


def compared(folder: Path) -> object:
    json.loads((folder / "out" / "results.json").read_text())
    lines = [json.loads(line) for line in (folder / "out" / "samples.jsonl").read_text().splitlines()]
    return sorted((line["method"], line["id"], str(line["answer"]), str(line["tokens"])) for line in lines)


def searched(folder: Path) -> object:
    from litestage.plan import load_plan

    record = json.loads((folder / "out" / "search.json").read_text())
    assert record["plan"] == load_plan(folder / "out" / "plan.yaml").hash
    return {key: value for key, value in record.items() if key not in ("command", "memory")}


def experimented(folder: Path) -> object:
    return json.loads((folder / "out" / "results.json").read_text())["rows"]


def trained(folder: Path) -> object:
    return hashlib.sha256((folder / "out" / "model.safetensors").read_bytes()).hexdigest()


def evaluated(folder: Path) -> object:
    results, samples = (sorted((folder / "out").rglob(name))[-1] for name in ("results_*.json", "samples_*.jsonl"))
    figures = json.loads(results.read_text())["results"]["menagerie_multistage"]
    lines = sorted(json.loads(line)["resps"][0][0] for line in samples.read_text().splitlines())
    return figures["acc,none"], figures["tokens,none"], lines


@dataclass(frozen=True)
class Command:
    """What is run, the files that are its results, and what of them does not hang on the clock."""

    line: str
    results: tuple[str, ...]
    content: Callable[[Path], object]


COMMANDS = {
    "compare": Command(
        "litestage compare methods=[full,uniform:2] questions=32 latency_questions=6 engine.batch_size=4 "
        "store=store.sqlite output=out",
        ("results.json", "report.html"),
        compared,
    ),
    "search": Command(
        "litestage search search.calibration=8 search.max_budget=2 search.max_accuracy_drop=0.1 search.finalists=0 "
        "engine.batch_size=4 store=store.sqlite output=out",
        ("search.json", "plan.yaml"),
        searched,
    ),
    "experiment": Command(
        "litestage experiment threshold plans=[cosine:6] thresholds=[0.5,0.9] windows=[3] questions=16 "
        "search.calibration=8 search.strategy=greedy search.max_budget=2 engine.batch_size=4 "
        "store=store.sqlite output=out",
        ("results.json",),
        experimented,
    ),
    "training": Command(
        "litestage.training menagerie model.architecture.num_hidden_layers=2 model.architecture.hidden_size=32 "
        "model.architecture.intermediate_size=64 'rows={recall: 4, analyze: 4, summarize: 4}' threads=1 "
        "accelerator=cpu data.menagerie=[menagerie_yesno] warmup_steps=2 steps=30 save_every=3 output=out",
        ("model.safetensors", "training.yaml"),
        trained,
    ),
    "lm_eval": Command(
        "lm_eval --model litestage --model_args store=store.sqlite,plan=uniform:2 --tasks menagerie_multistage "
        "--limit 16 --output_path out --log_samples",
        (),
        evaluated,
    ),
}


class Runs:
    """Runs commands in processes of their own, and kills them where it is told."""

    def __init__(self, parent: subprocess.Popen) -> None:
        self.parent = parent

    def __call__(
        self, command: Command, folder: Path, kill: tuple[float, signal.Signals] | None = None
    ) -> tuple[int, float, str]:
        """Exit code (negative after a signal), processor seconds used, and standard error."""
        errors = folder / "errors.txt"
        self._say(json.dumps([str(folder), str(errors), *shlex.split(command.line)]))
        child = int(self.parent.stdout.readline())
        while not self._ended(child):
            if kill is not None and self._seconds(child) >= kill[0]:
                os.kill(child, kill[1])
                kill = None
            time.sleep(0.005)
        used = self._seconds(child)
        self._say("")
        return os.waitstatus_to_exitcode(int(self.parent.stdout.readline())), used, errors.read_text()

    def _say(self, line: str) -> None:
        self.parent.stdin.write(line + "\n")
        self.parent.stdin.flush()

    @staticmethod
    def _stat(child: int) -> list[str]:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()

    def _ended(self, child: int) -> bool:
        return self._stat(child)[0] == "Z"

    def _seconds(self, child: int) -> float:
        user, system = self._stat(child)[11:13]
        return (int(user) + int(system)) / TICKS


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    if not Path("/proc/self/stat").is_file():
        pytest.skip("no /proc here, so a process's seconds are not known")
    variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", RUNS], **pipes, env={**os.environ, **variables}) as parent:
        yield Runs(parent)
        parent.stdin.close()


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """A store that holds step costs and nothing else, so that no choice hangs on the clock."""
    from litestage.session import Session

    path = tmp_path_factory.mktemp("costs") / "store.sqlite"
    Session.open("reference", store=path).step_costs()
    return path


def begin(folder, costs):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with closing(sqlite3.connect(costs)) as source, closing(sqlite3.connect(folder / "store.sqlite")) as target:
        source.backup(target)
    return folder


def kept(folder):
    """What the store holds and when it was written; of a journal by run and question, whoever keeps it."""
    with closing(sqlite3.connect(folder / "store.sqlite", timeout=60)) as connection:
        rows = connection.execute("SELECT key, written FROM results").fetchall()
        (sound,) = connection.execute("PRAGMA integrity_check").fetchone()
    assert sound == "ok"
    written = {}
    for key, at in rows:
        kind, run, *rest = key.split("/", 3)[:4] if key.startswith("journal/") else (key, "")
        name = (kind, run, rest[-1]) if rest else (kind,)
        assert name not in written  # nobody has a question twice
        written[name] = at
    return written


def step_reached(folder):
    """How far a training's checkpoint is."""
    import torch

    file = folder / "out" / "checkpoint.ckpt"
    return torch.load(file, weights_only=True)["global_step"] if file.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path, run, costs, name):
    command, chance = COMMANDS[name], random.Random(f"{SEED} {name}")
    whole = begin(tmp_path / "whole", costs)
    code, seconds, errors = run(command, whole)
    assert code == 0, errors
    expected = command.content(whole)
    folder = begin(tmp_path / "killed", costs)
    wanted, hits, ended, before, step = KILLS // len(COMMANDS), [], 0, kept(folder), 0
    while len(hits) < wanted:
        how = (signal.SIGKILL, signal.SIGTERM)[len(hits) % 2]
        moment = seconds * chance.random()
        code, _, errors = run(command, folder, (moment, how))
        told = f"{name}, seed {SEED}, {how.name} after {moment:.2f} of {seconds:.2f} s, {hits}: {errors}"
        assert "Traceback" not in errors, told
        if code == 0:  # it was done before
            ended += 1
            assert command.content(folder) == expected, told
            folder = begin(folder, costs)
            before, step = kept(folder), 0
            continue
        assert code in (-how, 128 + how), told
        hits.append(f"{how.name} {moment / seconds:.0%}")
        print(f"seed {SEED}, {name}: kill {len(hits)}, {hits[-1]}", flush=True)
        now = kept(folder)
        done = command.results and all((folder / "out" / file).exists() for file in command.results)
        lost = {key for key in before if now.get(key) != before[key] and not (done and key[0] == "journal")}
        assert not lost, told
        if name == "training":
            reached, before_step = step_reached(folder), step
            assert reached >= before_step or done, told
            step = reached
        for file in (folder / "out").glob("*.json"):
            json.loads(file.read_text())  # whole
        before = now
    code, _, errors = run(command, folder)
    assert code == 0, errors
    assert command.content(folder) == expected
    print(f"seed {SEED}, {name}: {len(hits)} kills, {ended} runs ended in between, and all ended alike", flush=True)
