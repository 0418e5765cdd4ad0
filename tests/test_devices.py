"""Two real processes over gloo give what one gives, and when one of them dies the job says so and ends."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_runner import written
from tiny import contestant, some_questions

from litestage.cli import main
from litestage.conf import folder
from litestage.config import TrainerConfig, load_config
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.ranks import from_rank_zero, launch, share, union
from litestage.runner import Contestant, run
from litestage.store import ResultStore
from litestage.trace import Trace

BIN = Path(sys.executable).parent
QUESTIONS = some_questions(7)


def started(*command, timeout=600, **variables):
    """The finished process of a command in an environment with one thread."""
    return subprocess.run(
        [*map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# --- what a user can get wrong ---


@pytest.mark.parametrize(
    ("trainer", "device", "named"),
    [
        (TrainerConfig(devices=0), "cpu", r"trainer\.devices is 0; give at least 1"),
        (TrainerConfig(num_nodes=0), "cpu", r"trainer\.num_nodes is 0"),
        (TrainerConfig(devices=2, strategy="fsdp"), "cpu", r"trainer\.strategy is 'fsdp'; known: auto, ddp"),
        (TrainerConfig(strategy="dpp"), "cpu", "did you mean 'ddp'"),
        (TrainerConfig(devices=3), "cuda", r"trainer\.devices is 3, but the CUDA devices here are 2"),
        (TrainerConfig(devices=3), "auto", r"trainer\.devices is 3, but the CUDA devices here are 2"),
        (TrainerConfig(devices=2), "cuda:1", r"device is 'cuda:1', one device"),
    ],
)
def test_a_number_of_devices_that_cannot_be_is_one_sentence(trainer, device, named, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LiteStageError, match=named):
        launch(trainer, device)


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize(
    "variables",
    [{"TORCHELASTIC_RUN_ID": "run", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}, {"SLURM_STEP_NUM_TASKS": "4"}],
    ids=str,
)
def test_another_number_of_processes_than_were_started_is_one_sentence(devices, variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LiteStageError, match=rf"4 processes were started, but .* is {devices};"):
        launch(TrainerConfig(devices=devices), "cpu")


def test_the_command_line_tells_it_before_a_model_is_loaded(litestage):
    code, _, err = litestage("compare", "trainer.devices=0", "model.pretrained=/nowhere")
    assert (code, "trainer.devices is 0" in err) == (2, True), err


def test_alone_nothing_is_shared_and_nothing_is_sent():
    launch(load_config([]).trainer, "cpu")
    assert not torch.distributed.is_initialized()
    assert share([1, 2, 3]) == share([1, 2, 3], rank_zero_only=True) == [1, 2, 3]
    assert union({"a": 1}) == {"a": 1}
    assert from_rank_zero(lambda: 5) == 5


# --- two processes ---

JOB = """
import json, os, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tiny import contestant, some_questions
from litestage.config import TrainerConfig
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.ranks import from_rank_zero, here, launch, own_folder, union
from litestage.runner import Contestant, run
from litestage.store import ResultStore

folder, failing, how = Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
launch(TrainerConfig(devices=2), "cpu")
rank = here().rank
(folder / f"rank{rank}.pid").write_text(str(os.getpid()))
store = ResultStore(folder / "store.sqlite")
answer, batches = Contestant.answer, []

def journalled():
    count = "SELECT COUNT(*) FROM results WHERE key LIKE 'journal/%'"
    return store.connection.execute(count).fetchone()[0]

def counting(self, questions, *, timed=False):
    batches.append([question.id for question in questions])
    if len(batches) == 2 and rank == failing:
        while journalled() < {0: 3, 1: 4}[rank] + 2:
            time.sleep(0.02)  # until the other has finished its share, and waits; of its own a batch is there
        if how in ("KILL", "TERM"):
            os.kill(os.getpid(), signal.Signals[f"SIG{how}"])
            time.sleep(60)
        raise RuntimeError("out of luck")
    return answer(self, questions, timed=timed)

Contestant.answer = counting
traces = run(some_questions(7), {"full": contestant()}, batch_size=2, journal=store)["full"]
shared, batches = batches, []
few = run(some_questions(1), {"full": contestant()})["full"]
clocked = run(some_questions(3), {"full": contestant()}, timed=True, journal=store)["full"]

def mistaken():
    raise LiteStageError(f"only rank {rank} knows")

try:
    from_rank_zero(mistaken)
except LiteStageError as error:
    mistake = str(error)
print(f"rank {rank} prints")
(own_folder(folder / "results") / "who").write_text(str(rank))
content = {
    "shared": shared, "traces": [t.to_dict() for t in traces], "few": [t.to_dict() for t in few],
    "clocked": [t.to_dict() for t in clocked], "asked_later": batches, "mistake": mistake,
    "from_rank_zero": from_rank_zero(lambda: rank),
    "plan": from_rank_zero(lambda: Plan.full(["one"])).hash,
    "union": union({rank: "x"}),
}
(folder / f"rank{rank}.json").write_text(json.dumps(content))
"""


def job(folder, failing=9, how="never"):
    folder.mkdir(exist_ok=True)
    (folder / "job.py").write_text(JOB)
    return [sys.executable, folder / "job.py", Path(__file__).parent, folder, failing, how]


@pytest.mark.slow
def test_two_ranks_share_the_questions_and_know_the_same(tmp_path):
    (tmp_path / "results").mkdir()
    done = started(*job(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "rank 0 prints\n"
    assert (tmp_path / "results" / "who").read_text() == "0"
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    asked = [question for batches in (first["shared"], second["shared"]) for batch in batches for question in batch]
    assert sorted(asked) == [question.id for question in QUESTIONS]
    assert [len(batch) for batch in first["shared"]] == [2, 2]
    assert [len(batch) for batch in second["shared"]] == [2, 1]
    assert second["asked_later"] == []  # one question for two ranks, and what rank 0 alone runs by the clock
    for key in ("traces", "few", "clocked", "mistake", "from_rank_zero", "union"):
        assert first[key] == second[key]
    expected = run(QUESTIONS, {"full": contestant()})["full"]
    assert written([Trace.from_dict(trace) for trace in first["traces"]]) == written(expected)
    assert written([Trace.from_dict(trace) for trace in first["few"]]) == written(expected[:1])
    assert all(Trace.from_dict(trace).latency_s > 0 for trace in first["clocked"])
    assert (first["mistake"], first["from_rank_zero"]) == ("only rank 0 knows", 0)
    assert first["plan"] == second["plan"] == Plan.full(["one"]).hash
    assert first["union"] == {"0": "x", "1": "x"}
    assert len(ResultStore(tmp_path / "store.sqlite")) == 0  # the journal is empty


def is_running(pid):
    """Whether the process is there, and more than an entry that nobody has collected."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True, check=False).stdout
    return not state.strip().startswith("Z") and bool(state.strip())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failing", "how", "told"),
    [
        (1, "KILL", "litestage: rank 1 was killed by signal 9"),
        (1, "raises", "[rank1]: RuntimeError: out of luck"),
        (0, "TERM", "litestage: the process that started rank 1 is gone"),
    ],
)
def test_a_rank_that_dies_ends_the_job_and_the_next_run_takes_up_what_all_had_done(
    tmp_path, monkeypatch, failing, how, told
):
    began = time.monotonic()
    process = subprocess.Popen(
        [*map(str, job(tmp_path, failing, how))],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store = ResultStore(tmp_path / "store.sqlite")
    while len(store) < 4 and time.monotonic() - began < 300:
        time.sleep(0.05)
    running = time.monotonic()
    _, errors = process.communicate(timeout=300)  # standard error closes when the last rank is gone
    assert process.returncode not in (0, None)
    assert time.monotonic() - running < 60  # they would wait for days
    assert told in errors
    assert ("Traceback" in errors) == (how == "raises")
    assert not any(is_running((tmp_path / f"rank{rank}.pid").read_text()) for rank in (0, 1))

    asked = []
    answer = Contestant.answer

    def spy(self, questions, *, timed=False):
        asked.extend(question.id for question in questions)
        return answer(self, questions, timed=timed)

    monkeypatch.setattr(Contestant, "answer", spy)
    traces = run(QUESTIONS, {"full": contestant()}, batch_size=2, journal=store)["full"]
    assert len(asked) == {0: 2, 1: 1}[failing]  # its second batch; the other had done all of its own
    assert len(store) == 0
    monkeypatch.undo()
    assert written(traces) == written(run(QUESTIONS, {"full": contestant()})["full"])


# --- through the front doors ---


def without_times(folder):
    """A comparison without what the clock said."""
    results = json.loads((folder / "results.json").read_text())
    for method in results["methods"]:
        for stage in method["stages"].values():
            stage.pop("prefill_s", None), stage.pop("decode_s", None)
    return {key: value for key, value in results.items() if key not in ("command", "environment", "memory")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("questions", "starts"), [(101, ["litestage"]), (7, ["torchrun", "--standalone", "--nproc-per-node=2"])]
)
def test_compare_on_two_devices_says_what_it_says_on_one(questions, starts, tmp_path, monkeypatch):
    options = ["compare", f"questions={questions}", "latency_questions=0", "methods=[full,uniform:4]"]
    many = [*options, f"output={tmp_path}/two", f"store={tmp_path}/two.sqlite", "trainer.devices=2"]
    command = [*starts, BIN / "litestage"] if starts[0] == "torchrun" else starts
    done = started(BIN / command[0], *command[1:], *many)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Written to") == 1

    monkeypatch.setattr(sys, "argv", ["litestage", *options, f"output={tmp_path}/one", f"store={tmp_path}/one.sqlite"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert without_times(tmp_path / "two") == without_times(tmp_path / "one")


CHOICE = """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: [" river", " den"]
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


@pytest.mark.slow
def test_lm_eval_on_two_devices_asks_each_question_once_and_writes_once(tmp_path, monkeypatch):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from litestage.harness.lm import LiteStageLM

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"question": q.text}) + "\n" for q in QUESTIONS))
    (tmp_path / "choice.yaml").write_text(CHOICE % (tmp_path / "rows.jsonl"))
    done = started(
        *(BIN / "lm_eval", "--model", "litestage", "--model_args", f"devices=2,store={tmp_path}/two.sqlite"),
        *("--tasks", "choice,menagerie_multistage", "--include_path", tmp_path, "--limit", 7, "--batch_size", 2),
        *("--output_path", tmp_path / "out", "--log_samples"),
    )
    assert done.returncode == 0, done.stderr
    (results,) = (tmp_path / "out").glob("*/results_*.json")
    found = json.loads(results.read_text())
    model = LiteStageLM(store=f"{tmp_path}/one.sqlite", batch_size=2)
    manager = TaskManager(include_path=[str(tmp_path), folder("tasks")], include_defaults=False)
    expected = simple_evaluate(
        model, tasks=["choice", "menagerie_multistage"], task_manager=manager, limit=7, bootstrap_iters=0
    )
    assert found["n-samples"] == expected["n-samples"]
    for task, figures in expected["results"].items():
        means = {key: value for key, value in figures.items() if "stderr" not in key}
        assert {key: found["results"][task][key] for key in means} == pytest.approx(means)
    (samples,) = (tmp_path / "out").glob("*/samples_choice_*.jsonl")
    assert len(samples.read_text().splitlines()) == 7
