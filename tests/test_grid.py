"""Comparisons over models, tasks and seeds: one command, done ones are not run again, one summary over all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from run_folders import FULL, method, results
from tiny_model import save_tiny_model

from litestage.comparison.grid.cells import cells_of, results_before
from litestage.comparison.grid.made_of import made_of, model_files
from litestage.comparison.grid.summary import summarise_grid
from litestage.config import load_config, save_config
from litestage.data import load_task
from litestage.errors import LiteStageError
from litestage.methods.shorthand import seeded
from litestage.report.grid import answers, grid_tables, warnings, write_grid_report
from litestage.stats import over_independent, over_the_same

# --- what the grid is ---


def test_every_model_meets_every_task_with_every_seed_and_one_models_cells_follow_each_other(tmp_path):
    (tmp_path / "mine").mkdir()
    grid = [f"grid.model=[tinyllama-1.1b,{tmp_path}/mine]", "grid.task=[obqa,csqa]", "grid.seed=[0,7]"]
    cells = cells_of(load_config([*grid, "output=here"]))
    assert [str(cell.folder) for cell in cells] == [
        f"{model}/{task}/seed-{seed}"
        for model in ("tinyllama-1.1b", "mine")
        for task in ("obqa", "csqa")
        for seed in (0, 7)
    ]
    first, last = cells[0].config, cells[-1].config
    assert (first.model.pretrained, first.model.chat_template) == ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", True)
    assert (last.model.pretrained, last.task, last.seed) == (f"{tmp_path}/mine", "csqa", 7)
    assert (last.output, last.grid.given) == ("here/mine/csqa/seed-7", False)


def test_the_folder_one_is_in_is_called_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    (cell,) = cells_of(load_config(["grid.model=[.]", "output=out"]))
    assert cell.config.output == "out/mine"


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ("grid.model=[qwen2.5-0.5]", "qwen2.5-0.5b"),
        ("grid.task=[obqa,csq]", "'csqa'"),
        ("grid.seed=[1,1]", "same folder"),
        ("grid.model=[a/final,b/final]", "'a/final' and 'b/final'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_anything_runs(grid, named):
    with pytest.raises(LiteStageError, match=named):
        cells_of(load_config([grid]))


def test_results_of_other_options_prompts_or_weights_are_not_taken_for_this_comparisons(tmp_path):
    model = tmp_path / "mine"
    model.mkdir()
    (model / "model.safetensors").touch()
    (cell,) = cells_of(load_config([f"grid.model=[{model}]", "questions=4"]))
    folder = tmp_path / "here"
    folder.mkdir()
    hashes = load_task("menagerie").through().hash
    done = {**results({**FULL, "mcnemar_p": 1.0}), "pipeline": {"name": "three", "hash": hashes}}
    (folder / "results.json").write_text(json.dumps(done))
    save_config(cell.config, folder)
    assert results_before(cell, folder) is None  # nobody knows of what it was made
    digests = made_of(cell.config, load_task("menagerie"), model_files(cell.config.model))
    (folder / "results.json").write_text(json.dumps({**done, "made_of": digests}))
    assert results_before(cell, folder) is not None
    (elsewhere,) = cells_of(load_config([f"grid.model=[{model}]", "questions=4", "output=there", "trainer.devices=2"]))
    assert results_before(elsewhere, folder) is not None
    for changed in (["questions=5"], ["questions=4", "seed=1"], ["questions=4", "pipeline=single"]):
        (other,) = cells_of(load_config([f"grid.model=[{model}]", *changed]))
        assert results_before(other, folder) is None
    os.utime(model / "model.safetensors", (time.time() + 9, time.time() + 9))
    assert results_before(cell, folder) is None


ROW = '{{"question": "Number {}?", "options": ["yes", "no"], "answer": "{}"}}\n'
METHOD = """
from litestage.plan import SkipSet, StagePlan

def plan(setting):
    return {{stage: StagePlan(SkipSet(ffn=({},))) for stage in setting.stages}}
"""


@pytest.mark.slow
def test_a_comparison_of_other_questions_methods_or_model_files_is_run_again(litestage, tmp_path):
    save_tiny_model(tmp_path / "tiny")
    rows, generation = tmp_path / "rows.jsonl", tmp_path / "tiny" / "generation_config.json"
    rows.write_text("".join(ROW.format(at, "A") for at in range(6)))
    (tmp_path / "mine.yaml").write_text("rows: {calibration: rows.jsonl, test: rows.jsonl}\n")
    (tmp_path / "own.py").write_text(METHOD.format(1))
    stages = ("recall", "analyze", "summarize")
    (tmp_path / "skips.yaml").write_text(
        yaml.safe_dump({"schema": "litestage.plan/1", "stages": dict.fromkeys(stages)})
    )
    options = [
        *("grid.task=[mine.yaml]", "methods=[full,own.py:1,skips.yaml]", "pipeline=recall_analyze_summarize"),
        *("model.pretrained=tiny", "latency_questions=0", "output=here", "store=store.sqlite"),
        *(f"max_new_tokens.{stage}=3" for stage in stages),
    ]

    def again():
        code, out, err = litestage("compare", *options)
        assert code == 0, err
        return "done before" not in out, grid("here/mine")

    _, first = again()
    assert again() == (False, first)
    for file, text in (
        (rows, "".join(ROW.format(at, "B") for at in range(6))),
        (rows, "".join(ROW.format(at, "B") for at in range(4))),
        (generation, json.dumps({**json.loads(generation.read_text()), "eos_token_id": [0, 5]})),
        (tmp_path / "own.py", METHOD.format(2)),
        (
            tmp_path / "skips.yaml",
            (tmp_path / "skips.yaml").read_text().replace("recall: null", "recall: {skip: {ffn: [0]}}"),
        ),
    ):
        file.write_text(text)
        ran, found = again()
        assert ran, file
        assert again() == (False, found)
    assert (first["n"], found["n"]) == (6, 4)
    assert litestage("report", "here/mine")[0] == 0


def test_a_seed_draws_other_calibration_questions_and_the_same_test_questions():
    from dataclasses import replace

    task = load_task("menagerie")
    again, other = replace(task, seed=3), replace(task, seed=4)
    pool, drawn = task.questions("calibration"), again.questions("calibration")
    assert drawn == replace(task, seed=3).questions("calibration")
    assert drawn[:50] != pool[:50] != other.questions("calibration")[:50] != drawn[:50]
    assert sorted(question.id for question in drawn) == sorted(question.id for question in pool)
    assert again.questions("test") == task.questions("test")


def test_random_draws_with_the_commands_seed_unless_it_names_its_own():
    assert [seeded(spec, 3) for spec in ("random:8", "random:8+exit", "random:8:1", "uniform:8", "full")] == [
        "random:8:3",
        "random:8:3+exit",
        "random:8:1",
        "uniform:8",
        "full",
    ]


# --- what is said of it ---


def test_averages_are_what_a_pocket_calculator_says():
    mean, low, high = over_independent([0.02, 0.04], [(0.0, 0.05), (0.01, 0.08)])
    assert mean == pytest.approx(0.03)
    assert low == pytest.approx(0.03 - (0.02**2 + 0.03**2) ** 0.5 / 2)
    assert high == pytest.approx(0.03 + (0.03**2 + 0.04**2) ** 0.5 / 2)
    assert over_the_same([0.02, 0.04], [(0.0, 0.05), (0.01, 0.08)]) == pytest.approx((0.03, 0.005, 0.065))


def compared(accuracy, speedup, p):
    full = method("full", 0.9, 1.0, [1.0, 1.0], mcnemar_p=1.0)
    ours = method("litestage", accuracy, speedup, [speedup / 1.1, speedup * 1.1], tokens=20, mcnemar_p=p)
    return results(full, ours)


def summary(*options, failed=()):
    """Two tasks, on which the method is twice and half as fast."""
    cells = cells_of(load_config(["grid.task=[obqa,csqa]", *options]))
    found = [compared(0.85, 2.0, 0.01), compared(0.87, 0.5, 0.03)]
    of_task = dict(zip(("obqa", "csqa"), found, strict=True))
    done = {cell: of_task[cell.task] for cell in cells if cell.task not in failed}
    return {**summarise_grid(cells, done, {c: "The hub is away." for c in cells if c not in done}), "command": "x <y>"}


def test_the_average_weighs_tasks_alike_and_speedups_geometrically():
    _, ours = summary()["averages"]
    assert (ours["model"], ours["method"], ours["tasks"]) == ("reference", "litestage", ["obqa", "csqa"])
    assert ours["accuracy"] == pytest.approx(0.86)
    assert ours["accuracy_drop"] == pytest.approx(0.04)
    assert ours["accuracy_drop_ci95"] == pytest.approx([0.04 - 0.05 / 2**0.5, 0.04 + 0.05 / 2**0.5])
    assert ours["speedup"] == pytest.approx(1.0)
    assert ours["speedup_ci95"] == pytest.approx([1.1 ** -(0.5**0.5), 1.1 ** (0.5**0.5)])
    assert ours["tokens"] == 24  # 20 and 4


def test_answers_as_full_depth_gives_them_are_averaged_and_have_a_table_of_their_own():
    cells = cells_of(load_config(["grid.task=[obqa,csqa]"]))
    made = [compared(0.85, 2.0, 0.01), compared(0.87, 0.5, 0.03)]
    for found, share in zip(made, (0.9, 0.7), strict=True):
        for entry in found["methods"]:
            entry |= {"agreement": share, "agreement_ci95": [share - 0.03, share + 0.04]}
    grid = {**summarise_grid(cells, dict(zip(cells, made, strict=True)), {}), "command": "x"}
    assert grid["averages"][1]["agreement"] == pytest.approx(0.8)
    assert grid["averages"][1]["agreement_ci95"] == pytest.approx([0.8 - 0.03 / 2**0.5, 0.8 + 0.04 / 2**0.5])
    (table,) = [table for table in grid_tables(grid) if "as full depth does" in table.title]
    assert table.rows[1] == ["litestage", "80.0% [77.9, 82.8]", "90.0% [87.0, 94.0]", "70.0% [67.0, 74.0]"]
    assert not any("as full depth does" in table.title for table in grid_tables(summary()))  # results of before


def test_what_each_row_is_certified_at_has_a_table_of_its_own_once_for_seeds_that_agree():
    cells = cells_of(load_config(["grid.task=[menagerie,menagerie_five]", "grid.seed=[0,1]"]))
    said = [{"same_text": 1.0}, {"same_text": 1.0}, {"same_text": 0.5}, {}]
    found = {cell: compared(0.85, 2.0, 0.1) for cell in cells}
    for cell, more in zip(cells, said, strict=True):
        full, other = found[cell]["methods"]
        found[cell]["methods"] = [
            full | {"plan": "a", "certified": False},
            other | {"plan": "b", "certified": False, **more},
        ]
    grid = {**summarise_grid(cells, found, {}), "command": "x"}
    (table,) = [table for table in grid_tables(grid) if "certified" in table.title]
    assert list(table.columns) == ["method", "menagerie", "menagerie_five"]
    assert [list(row) for row in table.rows] == [
        ["full", "full depth", "full depth"],
        ["litestage", "same text", "50.0% same text / no"],
    ]
    assert not any("certified" in table.title for table in grid_tables(summary()))  # results of before


def test_p_values_are_adjusted_over_all_comparisons():
    rows = {(row["task"], row["method"]): row for row in summary()["rows"]}
    assert rows["obqa", "litestage"]["mcnemar_p_holm"] == pytest.approx(0.02)
    assert rows["csqa", "litestage"]["mcnemar_p_holm"] == pytest.approx(0.03)
    assert "mcnemar_p_holm" not in rows["obqa", "full"]


def test_more_seeds_do_not_make_an_interval_narrower():
    once, thrice = summary()["rows"][1], summary("grid.seed=[0,1,2]")["rows"][1]
    assert thrice["seeds"] == [0, 1, 2]
    assert [seed["speedup"] for seed in thrice["by_seed"]] == [2.0] * 3
    for name in ("accuracy", "accuracy_drop", "accuracy_drop_ci95", "speedup", "speedup_ci95"):
        assert thrice[name] == pytest.approx(once[name])


def test_the_page_tells_the_average_links_what_is_there_and_names_what_failed(tmp_path):
    grid = summary(failed=("csqa",))
    assert warnings(grid) == ["reference, csqa, seed 0 failed: The hub is away."]
    assert answers(grid)[0].startswith(
        "With reference, litestage is 2.00 times as fast as full depth on average over obqa"
    )
    assert grid_tables(grid)[0].rows[1] == ["litestage", "85.0%, +5.0 [+0.0, +10.0] *"]
    page = tmp_path / "obqa" / "report.html"
    page.parent.mkdir(parents=True)
    page.touch()
    html, markdown = (path.read_text() for path in write_grid_report(grid, tmp_path))
    assert 'href="obqa/report.html"' in html
    assert "csqa/report" not in html + markdown
    assert "x &lt;y&gt;" in html
    assert "The hub is away" in html
    assert "The hub is away" in markdown


# --- the whole command ---

DATA = os.environ.get("LITESTAGE_DATA")
SMALL = [
    *("methods=[full,uniform:2]", "variants={}", "questions=3", "latency_questions=1", "store=store.sqlite"),
    *("search.calibration=3", "search.max_budget=1", "pipeline=recall_analyze_summarize", "model.chat_template=false"),
    *(f"max_new_tokens.{stage}=3" for stage in ("recall", "analyze", "summarize")),
]


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="LITESTAGE_DATA names no folder with the three tasks' rows")
def test_the_papers_grid_survives_a_kill_runs_nothing_twice_and_names_what_fails(litestage, tmp_path):
    """Tiny stand-ins for the paper's models, whose last part makes the same folders."""
    tiny = save_tiny_model(tmp_path / "tiny" / "tinyllama")
    shutil.copytree(tiny, tmp_path / "tiny" / "qwen")
    models = "grid.model=[tiny/tinyllama,tiny/qwen]"
    command = ["experiment", "paper", models, "output=here", *SMALL]
    first, second = (Path("here/tinyllama", task) for task in ("obqa", "csqa"))

    program = [sys.executable, "-c", "from litestage.cli import main; main()", *command]
    with open("said", "w") as said:
        process = subprocess.Popen(program, stdout=said, stderr=said)
    waited_until = time.monotonic() + 240
    while not second.exists() and process.poll() is None and time.monotonic() < waited_until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, Path("said").read_text()
    before = (first / "results.json").read_text()
    assert not (second / "results.json").exists()
    (tmp_path / "tiny" / "qwen" / "config.json").write_text('{"model_type": "gpt2"}')

    code, out, err = litestage(*command, "grid.task=[obqa,csqa]")
    assert code == 2
    assert "2 of 4 comparisons failed (qwen, obqa, seed 0; qwen, csqa, seed 0)" in err
    assert "gpt2" in err
    assert "1 of 4: tinyllama, obqa, seed 0, done before" in out
    assert (first / "results.json").read_text() == before
    assert [cell["state"] for cell in grid("here")["cells"]] == ["done", "done", "failed", "failed"]

    shutil.copytree(tiny, tmp_path / "tiny" / "qwen", dirs_exist_ok=True)
    code, out, err = litestage(*command)
    assert code == 0, err
    assert out.count("done before") == 2
    found = grid("here")
    assert (found["schema"], found["models"], found["tasks"]) == (
        "litestage.grid/1",
        ["tinyllama", "qwen"],
        ["obqa", "csqa", "strategyqa"],
    )
    assert len(found["rows"]) == 2 * 3 * 2
    assert len(found["averages"]) == 2 * 2
    for cell in found["cells"]:
        assert (cell["state"], cell["n"]) == ("done", 3)
        assert {"results.json", "samples.jsonl", "config.yaml", "report.html"} <= {
            path.name for path in Path("here", cell["folder"]).iterdir()
        }

    assert litestage("report", "here")[0] == 0
    assert Path("here/report.html").read_text().count("<li><a href=") == 6


def grid(folder):
    return json.loads(Path(folder, "results.json").read_text())


def test_a_comparison_that_fails_keeps_the_results_that_were_there(litestage, tmp_path):
    method = tmp_path / "mine.py"
    method.write_text("from litestage.plan import StagePlan\n\ndef plan(setting):\n    return {'recall': StagePlan()}")
    command = ["compare", "grid.task=[menagerie]", "methods=[full,mine.py:2]", "store=store.sqlite", "output=here"]
    assert litestage(*command, "questions=4", "latency_questions=0")[0] == 0
    kept = {path.name: path.read_bytes() for path in Path("here/menagerie").iterdir() if path.is_file()}
    method.write_text("def plan(setting):\n    return 1 / 0")
    code, _, err = litestage(*command, "questions=6", "latency_questions=0")
    assert (code, "ZeroDivisionError" in err) == (2, True)
    assert {path.name: path.read_bytes() for path in Path("here/menagerie").iterdir() if path.is_file()} == kept
    assert grid("here")["cells"][0]["state"] == "failed"
    assert "menagerie/report" not in Path("here/report.md").read_text()  # it is of other options
    assert litestage("report", "here/results.json")[0] == 0


def test_other_commands_take_no_grid(litestage):
    code, _, err = litestage("search", "grid.seed=[0,1]")
    assert (code, "litestage compare" in err) == (2, True)
