"""Everything README and docs/ tell a reader to type is typed here, from the first line to the last, in one folder.

Commands are taken from the documents themselves: a new one is run, or fails here. They run in this process, each once,
in the order they stand in. Stand-ins:

- hub models, which are not reachable, are a random model of 12 layers with a chat template;
- the data sets are a folder of three made-up rows each, which ``LITESTAGE_DATA`` names;
- options make runs small, where the document does not set them itself (`SMALL`, `SHORT`, `TUNING`, ``--limit 1``);
- what a step costs is given, not measured (test_costs.py measures it);
- lm-eval's own thousands of task files are not read, which takes it ten seconds every time (test_install.py does).

What cannot run here, or runs in another test, is named in `ELSEWHERE` with that test or the reason.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_folders import compared, experimented
from tiny_model import save_tiny_model

from litestage.conf import find, folder
from litestage.config import load_config
from litestage.engine import Engine
from litestage.plan import load_plan
from litestage.profile import StepCosts

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "questions": "2",
    "latency_questions": "1",
    "search.calibration": "2",
    "search.max_budget": "1",
    "search.timed_questions": "1",
    "store": "store.sqlite",
}
SHORT = {f"max_new_tokens.{stage}": "6" for stage in ("recall", "analyze", "summarize")}
TUNING = ["steps=2", "questions=1", "precision=32-true", "accelerator=cpu", "threads=1"]
ELSEWHERE = {
    r"make demo": "test_install.py::test_the_embedded_model_answers_the_menagerie_under_a_plan",
    r"make test": "this suite",
    r"pip install .*": "test_install.py::test_tasks_are_listed_beside_lm_evals_own",
    r"(litestage ask|lm_eval) .*smollm2-135m-staged.*": "test_ask.py::test_a_real_model_answers_in_stages",
    r"litestage compare --config real": "hours; test_ask.py::test_the_real_comparison_names_models_tasks_and_methods",
    r"lm_eval .*devices=4.*": "test_devices.py::test_lm_eval_on_two_devices_asks_each_question_once_and_writes_once",
    r"litestage compare .*trainer.devices=4": "test_devices.py::test_compare_on_two_devices_says_what_it_says_on_one",
    r"(torchrun|srun) .*": "needs two machines; its options are read below",
    r"litestage compare .*tracking=wandb": "test_tracking.py::test_a_command_tracks_its_run",
    r"litestage (compare .*grid.*|report runs/grid|experiment paper)": (
        "test_grid.py::test_the_papers_grid_survives_a_kill_runs_nothing_twice_and_names_what_fails"
    ),
    r"export LITESTAGE_DATA=.*|python -m litestage.bench.gpu .*": "wants a GPU; test_bench.py has the same on a CPU",
    r"litestage experiment .*": "test_experiments.py::test_an_experiment_leaves_rows_a_plot_and_what_they_show",
    r"python -m litestage.tracking.dashboard .*": "test_tracking.py::test_a_dashboard_compares_methods_over_runs",
    r"python tests/gate_reruns.py .*": "fifty comparisons; test_gate.py::test_reruns_without_a_change_pass has two",
}
APART = "extending.md"  # it edits the repository: tests/test_extending.py does so in a copy
DOCUMENTS = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != APART)]
PROGRAMS = ("cat", "litestage", "lm_eval", "make", "pip", "python", "srun", "torchrun")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`")


def blocks(document: Path) -> list[tuple[str, str]]:
    """The fenced blocks: language and text."""
    return BLOCK.findall(document.read_text(encoding="utf-8"))


def in_sentences(document: Path) -> list[str]:
    """Commands with options that stand between the words; ``litestage search`` alone only names one."""
    found = INLINE.findall(BLOCK.sub("", document.read_text(encoding="utf-8")))
    return [" ".join(command.split()) for command in found if len(command.split()) > 2]


def commands(block: str) -> Iterator[str]:
    """The commands of a block: a backslash continues a line, a here-document goes up to its END."""
    lines = iter(block.replace("\\\n", " ").splitlines())
    for line in lines:
        if "<<'END'" in line:
            text = [line]
            while text[-1] != "END":
                text.append(next(lines))
            yield "\n".join(text)
        elif line.strip():
            yield line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader's folder, with what earlier chapters of README take from runs that are too long to repeat here."""
    here = tmp_path_factory.mktemp("reader")
    (here / "reports").mkdir()
    (here / "runs").mkdir()
    compared(here / "reports" / "demo")
    experimented(here / "runs" / "sensitivity-menagerie-reference")
    return here


@pytest.fixture(scope="module")
def hub_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("hub")
    save_tiny_model(path, layers=12, context=8192)
    settings = json.loads((path / "tokenizer_config.json").read_text())
    settings["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}\n"
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    here = tmp_path_factory.mktemp("data") / "openbookqa"
    here.mkdir()
    things = {"train": ("moon", "comet", "planet"), "validation": ("fire", "lamp", "candle"), "test": ("fox", "owl")}
    for split, subjects in things.items():
        rows = [
            {
                "id": thing,
                "question_stem": f"Which is {thing}?",
                "choices": {"text": [thing, "salt", "wood", "milk"], "label": ["A", "B", "C", "D"]},
                "answerKey": "A",
                "fact1": f"a {thing} is a {thing}",
            }
            for thing in subjects
        ]
        (here / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(here.parent)


@pytest.fixture(scope="module")
def done() -> set[str]:
    return set()


@pytest.fixture
def typed(
    done: set[str], place: Path, hub_model: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], None]:
    """Runs one command in the reader's folder, and fails as it fails."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("LITESTAGE_DATA", data)
    monkeypatch.setattr("litestage.session.session.measure_step_costs", given_costs)

    def stand_in(word: str) -> str:
        if (match := re.fullmatch(r"model=(?!reference)(.+)", word)) is not None:
            assert find("model", match[1]), word
            return f"model.pretrained={hub_model}"
        return re.sub(r"(?<=pretrained=)(?!reference|runs/)[^,]+", hub_model, word)

    def run(command: str) -> None:
        words = shlex.split(command, comments=True)
        if " ".join(words) in done:
            return None
        done.add(" ".join(words))
        elsewhere = [test for pattern, test in ELSEWHERE.items() if re.fullmatch(pattern, " ".join(words))]
        if elsewhere:
            return _read_options(words)
        if words[0] == "cat":
            subprocess.run(["bash", "-ec", command], check=True)
            return None
        words = [stand_in(word) for word in words]
        monkeypatch.setattr(sys, "argv", words)
        runs = {"litestage": _litestage, "lm_eval": _lm_eval, "python": _train}
        assert words[0] in runs, f"{command}: say in ELSEWHERE which test runs it, or why none does"
        return runs[words[0]](words)

    return run


def given_costs(engine: Engine) -> StepCosts:
    each = (1e-3, 0.0, 2e-4, 0.0, 0.0, 3e-4, 0.0)
    return StepCosts(engine.decoder.layers, each, each, 0.0)


def _litestage(words: list[str]) -> None:
    from litestage.cli import main

    if words[1] in ("compare", "search", "profile", "demo") or words[1:3] in (["plan", "show"], ["plan", "validate"]):
        # one process here; test_devices.py has several
        words[:] = [word for word in words if not word.startswith(("search.calibration=", "trainer.devices="))]
        given = {word.split("=")[0] for word in words}
        small = SMALL if "output=runs/found" in words else SMALL | SHORT  # its plan is for the pipeline as it comes
        words += [f"{name}={value}" for name, value in small.items() if name not in given]
    if words[1:3] == ["plan", "best"]:
        words[-1] = "1"  # two calibration questions prove no lower bound
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0


def _lm_eval(words: list[str]) -> None:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.tasks.manager import TaskManager

    def without_defaults(self: TaskManager, *, include_path=(), include_defaults=True, **more: object) -> None:
        theirs = [include_path] if isinstance(include_path, str) else list(include_path or ())
        whole(self, include_path=[str(folder("tasks")), *theirs], include_defaults=False, **more)

    whole = TaskManager.__init__
    words[1:1] = ["run"]
    words += ["--limit", "1"]  # the last one counts
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskManager, "__init__", without_defaults)
        cli_evaluate()


def _train(words: list[str]) -> None:
    from litestage.training.__main__ import main

    assert words[1:3] == ["-m", "litestage.training"], words
    main(words[3], [*words[4:], *TUNING])


def _read_options(words: list[str]) -> None:
    """Reads the options of a command that is not run, wherever the program's name stands in it."""
    names = [index for index, word in enumerate(words) if word.rstrip(")") == "litestage"]
    if names and words[names[0] + 1] in ("search", "compare"):
        load_config([word for word in words[names[0] + 2 :] if "=" in word])


PARTS = [
    pytest.param(language, block, id=f"{document.name}: {' '.join(block.split()[:5])}")
    for document in DOCUMENTS
    for language, block in [*blocks(document), ("", "\n".join(in_sentences(document)))]
    if block
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(("language", "block"), PARTS)
def test_what_is_shown_works(
    language: str, block: str, place: Path, typed: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    if language == "yaml":
        (place / "plan.yaml").write_text(block)
        load_plan(place / "plan.yaml")
    elif language == "python":
        exec(block, {})
        promised = re.search(r"print\(.*# (\w+ \w+)", block)
        assert promised is not None
        assert capsys.readouterr().out.startswith(promised[1])
    elif language == "json":
        json.loads(f"{{{block}}}")  # a part of a row
    else:
        assert not language, f"{language}: say how it is tried"
        for command in commands(block):
            typed(command)


@pytest.mark.parametrize(("pattern", "test"), ELSEWHERE.items())
def test_what_runs_elsewhere_does_and_still_stands_in_a_document(pattern: str, test: str) -> None:
    for file, name in re.findall(r"(test_\w+\.py)::(\w+)", test):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text()
    shown = [command for document in DOCUMENTS for _, block in blocks(document) for command in commands(block)]
    shown = [" ".join(shlex.split(command, comments=True)) for command in shown if command.startswith(PROGRAMS)]
    assert [
        command for each in DOCUMENTS for command in [*shown, *in_sentences(each)] if re.fullmatch(pattern, command)
    ]


def test_every_promise_names_tests_that_are_there() -> None:
    promises = (ROOT / "README.md").read_text().split("## What is guaranteed")[1].split("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+\.py|tests/\w+)`", row)
        assert named
        assert all((ROOT / "tests" / name.removeprefix("tests/")).exists() for name in named)
