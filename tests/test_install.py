"""The real ``lm_eval`` command after a wheel install and after an editable install, with no wrapper and no options."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import save_tiny_model

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

PLAN = """
schema: litestage.plan/1
stages:
  analyze:
    skip: {mhsa: [3], ffn: [2]}
    exit: {rule: confidence, threshold: 0.3, window: 5}
provenance: {method: litestage}
"""


class Installed:
    """A virtual environment that has litestage installed and sees this one's other packages; nothing is downloaded."""

    def __init__(self, where: Path, *arguments: str) -> None:
        self.where = where
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", where / "venv"], check=True)
        self.python = where / "venv" / "bin" / "python"
        (self.site / "other_packages.pth").write_text(self.others + "\n")  # their own .pth files are not read this way
        self.pip("install", "--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", *arguments)
        script = Path(sys.executable).with_name("lm_eval").read_text().split("\n", 1)[1]
        self.command = where / "venv" / "bin" / "lm_eval"
        self.command.write_text(f"#!{self.python}\n{script}")
        self.command.chmod(0o755)

    @property
    def others(self) -> str:
        return str(Path(pytest.__file__).parent.parent)

    @property
    def site(self) -> Path:
        return next((self.where / "venv" / "lib").glob("python*/site-packages"))

    def pip(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "pip", "-q", "--python", self.python, *arguments], check=True, cwd=self.where
        )

    def run(self, *command: object, **variables: str) -> subprocess.CompletedProcess:
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "LITESTAGE_NO"))
        }
        environment |= {"XDG_CACHE_HOME": str(self.where / "cache"), "HF_HUB_OFFLINE": "1", **variables}
        return subprocess.run(
            list(map(str, command)), cwd=self.where, env=environment, capture_output=True, text=True, timeout=1800
        )

    def lm_eval(self, *arguments: object, **variables: str) -> subprocess.CompletedProcess:
        return self.run(self.command, *arguments, **variables)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("wheel"), str(ROOT))


@pytest.fixture(scope="module")
def editable(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("editable"), "-e", str(ROOT))


def written(output: Path) -> tuple[dict, dict[str, list[dict]]]:
    """results_*.json, and the samples by task."""
    (results,) = output.glob("**/results_*.json")
    samples = {
        path.name.removeprefix("samples_").rsplit("_", 1)[0]: [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in output.glob("**/samples_*.jsonl")
    }
    return json.loads(results.read_text()), samples


def test_tasks_are_listed_beside_lm_evals_own(editable: Installed):
    listed = editable.lm_eval("ls", "tasks")
    assert listed.returncode == 0, listed.stderr
    for name in ("obqa_multistage", "menagerie_yesno_multistage", "multistage", "hellaswag"):
        assert name in listed.stdout
    assert "litestage:" not in listed.stderr


def test_yaml_comes_from_the_package_or_from_the_checkout_itself(wheel: Installed, editable: Installed):
    program = "from litestage.conf import folder; print(folder('conf'), folder('tasks'))"
    in_wheel, in_checkout = (each.run(each.python, "-c", program).stdout.split() for each in (wheel, editable))
    assert in_wheel == [str(wheel.site / "litestage" / f"_{name}") for name in ("conf", "tasks")]
    assert in_checkout == [str(ROOT / name) for name in ("conf", "tasks")]


@pytest.mark.parametrize(("how", "plan", "skipped"), [("wheel", "full", 0), ("editable", "plan.yaml", 2)])
def test_the_embedded_model_answers_the_menagerie_under_a_plan(how: str, plan: str, skipped: int, request):
    installed: Installed = request.getfixturevalue(how)
    (installed.where / "plan.yaml").write_text(PLAN)
    output = installed.where / "out" / plan
    arguments = ["--model", "litestage", "--model_args", f"plan={plan}", "--tasks", "menagerie_multistage"]
    ran = installed.lm_eval(*arguments, "--limit", 20, "--output_path", output, "--log_samples")
    assert ran.returncode == 0, ran.stderr
    results, samples = written(output)
    figures = results["results"]["menagerie_multistage"]
    assert results["n-samples"]["menagerie_multistage"]["effective"] == 20
    assert figures["latency_s,none"] > 0
    assert results["config"]["plans"]["menagerie"]["skipped"]["analyze"] == skipped
    rows = samples["menagerie_multistage"]
    assert len(rows) == 20
    assert figures["acc,none"] == pytest.approx(sum(row["acc"] for row in rows) / 20)
    if plan == "full":
        assert figures["acc,none"] >= 0.9


@pytest.mark.skipif("LITESTAGE_DATA" not in os.environ, reason="LITESTAGE_DATA names no folder with the real data")
def test_the_real_tasks_run_from_a_data_folder(wheel: Installed):
    output = wheel.where / "multistage"
    ran = wheel.lm_eval("--model", "litestage", "--tasks", "multistage", "--limit", 2, "--output_path", output)
    assert ran.returncode == 0, ran.stderr
    results, _ = written(output)
    assert set(results["results"]) == {"multistage", "obqa_multistage", "csqa_multistage", "strategyqa_multistage"}
    assert "knows only the menagerie" in ran.stderr + ran.stdout


def test_lm_evals_own_models_still_work_on_ordinary_tasks(wheel: Installed, tiny: str):
    (wheel.where / "rows.jsonl").write_text('{"question": "Is ice cold?", "options": ["yes", "no"], "answer": 0}\n' * 4)
    (wheel.where / "tiny_choice.yaml").write_text(
        "task: tiny_choice\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {{test: {wheel.where / 'rows.jsonl'}}}}}\n"
        'doc_to_text: "{{question}}"\ndoc_to_choice: "{{options}}"\ndoc_to_target: answer\n'
    )
    output = wheel.where / "choice"
    ran = wheel.lm_eval(
        *("--model", "hf", "--model_args", f"pretrained={tiny}", "--tasks", "tiny_choice", "--device", "cpu"),
        *("--include_path", wheel.where, "--output_path", output),
        HF_DATASETS_CACHE=str(wheel.where / "datasets"),
    )
    assert ran.returncode == 0, ran.stderr
    assert "acc,none" in written(output)[0]["results"]["tiny_choice"]


def test_another_model_on_a_staged_task_fails_at_once_with_one_clear_sentence(wheel: Installed, tiny: str):
    arguments = ["--model", "hf", "--model_args", f"pretrained={tiny}", "--tasks", "menagerie_multistage"]
    ran = wheel.lm_eval(*arguments, "--limit", 2)
    assert ran.returncode != 0
    last = ran.stderr.strip().splitlines()[-1]
    assert "LiteStageError" in last
    assert "run it with --model litestage" in last


def test_the_hook_can_be_turned_off(wheel: Installed):
    program = (
        "import lm_eval.models, lm_eval.tasks.manager as manager\n"
        "from lm_eval.api.registry import model_registry\n"
        "print('litestage' in model_registry, 'hf' in model_registry, manager.TaskManager.__init__.__module__)"
    )
    on, off = (wheel.run(wheel.python, "-c", program, LITESTAGE_NO_HOOK=value) for value in ("0", "1"))
    assert on.stdout.split() == ["True", "True", "litestage._lm_eval_hook"]
    assert off.stdout.split() == ["False", "True", "lm_eval.tasks.manager"]


def test_starting_python_imports_nothing_heavy_and_uninstalling_leaves_nothing(tmp_path):
    own = Installed(tmp_path, str(ROOT))
    program = "import sys; print(*sorted(name for name in sys.modules if 'litestage' in name or name in {0!r}))"
    heavy = ("torch", "lm_eval", "transformers", "pathlib", "importlib.abc")
    started = own.run(own.python, "-c", program.format(heavy))
    assert started.stdout.split() == ["litestage", "litestage._lm_eval_hook"]
    own.pip("uninstall", "-y", "litestage")
    assert not list(own.site.glob("*litestage*"))
    after = own.run(own.python, "-c", program.format(heavy))
    assert (after.stdout.strip(), after.stderr) == ("", "")
