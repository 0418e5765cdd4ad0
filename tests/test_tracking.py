"""W&B: every figure of results.json is in the offline run, read back by W&B's own command; and it is never fatal."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from run_folders import FULL, OURS, compared, experimented, question, traced

from litestage.errors import LiteStageError
from litestage.report import read_run, write_report
from litestage.tracking import track
from litestage.tracking.dashboard import dashboard
from litestage.tracking.figures import figures, flat, tables
from litestage.tracking.wandb_run import mode_to_use

BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def own_wandb(tmp_path_factory, monkeypatch):
    """No key, no server, and none of this machine's W&B files."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("wandb")
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(home))
    yield home
    if sys.modules.get("wandb"):
        sys.modules["wandb"].teardown()  # it reads its variables once per process


def inspected(folder, *options):
    """What W&B's own command reads from the offline run in a folder."""
    (run,) = folder.glob("wandb/offline-run-*")
    command = [str(BIN / "wandb"), "leet", "inspect", *options, "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return run, done.stdout


def summary_of(folder):
    return json.loads(inspected(folder, "--summary")[1])


def leaves(value):
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


def missing(results, kept):
    """Every entry of results.json, numbers and words, that the run does not hold, or not as often."""
    return Counter(leaves(results)) - Counter(leaves(kept["summary"])) - Counter(leaves(kept["config"]["made"]))


@pytest.mark.slow
def test_every_figure_of_results_json_is_in_the_offline_run_with_tables_plots_and_files(tmp_path, capsys):
    run = read_run(compared(tmp_path, lines=[question(full=traced("A", "so be it"), litestage=traced("B"))]))
    write_report([run], tmp_path)
    track("wandb", run, "compare")
    assert "wandb sync" in capsys.readouterr().out
    kept = summary_of(tmp_path)
    summary, results = kept["summary"], json.loads((tmp_path / "results.json").read_text())
    assert not missing(results, kept)
    assert summary["n"] == 100
    assert summary["methods/litestage/stages/answer/tokens"] == 4
    assert summary["methods/cosine/accuracy_drop_ci95/1"] == results["methods"][2]["accuracy_drop_ci95"][1]
    assert summary["methods/litestage/speedup_over/cosine"] == pytest.approx(1.5 / 0.8)
    assert summary["search/chosen/latency_s"] == pytest.approx(0.076)
    assert kept["config"]["task"] == "mine"
    assert kept["config"]["made"]["environment"] == {"hardware": "a laptop", "torch": "2.13.0"}
    assert kept["state"] == "finished"
    folder, text = inspected(tmp_path)
    records = [json.loads(line) for line in text.splitlines()]
    started = next(record["run"] for record in records if record["type"] == "run")
    assert (started["job_type"], started["run_group"]) == ("compare", "mine_multistage-tiny")
    artifacts = {record["artifact"]["type"]: record["artifact"] for record in records if record["type"] == "artifact"}
    names = {entry["path"] for kind in ("results", "plan") for entry in artifacts[kind]["manifest"]["contents"]}
    assert names == {
        "results.json", "traces.jsonl", "search.json", "profile.json", "report.html", "config.yaml", "plan.yaml"
    }  # fmt: skip
    tables = {path.name.split("_table")[0]: path for path in folder.glob("files/media/table/*.table.json")}
    assert {"methods", "speedups", "search", "traces"} <= set(tables)
    traces = json.loads(tables["traces"].read_text())
    written = [dict(zip(traces["columns"], row, strict=True)) for row in traces["data"]]
    assert [row["written"] for row in written if row["method"] == "full"] == ["so be it"] * 2
    assert len(list(folder.glob("files/media/images/plots/*.png"))) == 9
    (page,) = folder.glob("files/media/html/*.html")
    assert page.read_text() == (tmp_path / "report.html").read_text()


def test_an_experiment_is_its_sentences_and_its_rows(tmp_path):
    run = read_run(experimented(tmp_path, memory={"peak_resident_mb": 512.5}))
    assert figures(run) == {
        "experiment": "sensitivity",
        "task": "mine_multistage",
        "n": 100,
        "shows": "Think loses first. Answer bears all.",
        "memory/peak_resident_mb": 512.5,
    }
    track("wandb", run, "experiment-sensitivity")
    (table,) = inspected(tmp_path)[0].glob("files/media/table/rows_table*.json")
    rows = json.loads(table.read_text())
    assert dict(zip(rows["columns"], rows["data"][0], strict=True))["accuracy_drop_ci95/1"] == 0.15


def test_a_methods_row_has_its_agreement_where_it_was_counted(tmp_path):
    columns, rows = tables(
        read_run(compared(tmp_path, FULL, {**OURS, "agreement": 0.75, "agreement_ci95": [0.65, 0.83]}))
    )["methods_table"]
    assert [row[columns.index("agreement")] for row in rows] == [None, 0.75]


def test_paths_name_the_methods():
    raw = {"methods": [{"name": "a", "ci": [1, 2]}, {"name": "b", "ci": [3]}], "rows": [{"x": None}]}
    found = [("methods/a/name", "a"), ("methods/a/ci/0", 1), ("methods/a/ci/1", 2)]
    found += [("methods/b/name", "b"), ("methods/b/ci/0", 3), ("rows/0/x", None)]
    assert list(flat(raw)) == found


def test_it_is_offline_without_a_key_and_as_it_is_told(monkeypatch, own_wandb):
    assert mode_to_use() == "offline"
    (own_wandb / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert mode_to_use() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert mode_to_use() == "offline"  # that key is for another server
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    assert mode_to_use() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode_to_use() == "offline"


@pytest.mark.slow
def test_a_server_out_of_reach_leaves_an_offline_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("litestage.tracking.wandb_run.PATIENCE_S", 3)
    track("wandb", read_run(compared(tmp_path)), "compare")
    assert "could not be reached" in capsys.readouterr().out
    assert summary_of(tmp_path)["summary"]["methods/full/accuracy"] == 0.9


@pytest.mark.parametrize("trouble", ["no wandb", "no such name"])
def test_what_fails_is_a_sentence(tmp_path, monkeypatch, capsys, trouble):
    run = read_run(compared(tmp_path))
    if trouble == "no wandb":
        monkeypatch.setitem(sys.modules, "wandb", None)
    else:
        monkeypatch.setenv("WANDB_PROJECT", "no/such:name")
    track("wandb", run, "compare")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("litestage: W&B did not take the run")
    assert len(said.err.splitlines()) == 1


def test_nothing_is_tracked_unless_it_is_asked_for(tmp_path):
    track("none", read_run(compared(tmp_path)), "compare")
    assert not (tmp_path / "wandb").exists()


def test_another_tracker_is_one_sentence(litestage):
    code, _, err = litestage("compare", "tracking=wandbb")
    assert (code, "did you mean 'wandb'" in err) == (2, True), err


@pytest.mark.slow
def test_a_command_tracks_its_run(tmp_path):
    options = "methods=[full,uniform:2] questions=2 latency_questions=1 search.calibration=2 store=s.sqlite output=here"
    command = [str(BIN / "litestage"), "compare", *options.split(), "tracking=wandb", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["n"] == 2
    kept = summary_of(tmp_path / "here")
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert not missing(results, kept)
    for stage in ("recall", "analyze", "summarize"):
        assert {f"methods/uniform/stages/{stage}/{of}" for of in ("tokens", "prefill_s", "decode_s")} <= set(
            kept["summary"]
        )
    over = kept["summary"]["methods/full/speedup_over/uniform"]
    assert over * kept["summary"]["methods/uniform/speedup"] == pytest.approx(1)


@pytest.mark.slow
def test_lm_evals_own_wandb_args_work(tmp_path):
    options = ["--tasks", "menagerie_multistage", "--limit", "2", "--log_samples", "--output_path", "out"]
    command = [str(BIN / "lm_eval"), "--model", "litestage", *options, "--wandb_args", "project=mine,mode=offline"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Logging to W&B failed" not in done.stdout + done.stderr
    summary = summary_of(tmp_path)["summary"]
    assert summary["menagerie_multistage/acc"] == 1
    assert summary["menagerie_multistage/tokens_analyze"] > 0
    (samples,) = tmp_path.glob("wandb/offline-run-*/files/media/table/menagerie_multistage_eval_results*.json")
    assert "tokens_recall" in json.loads(samples.read_text())["columns"]


def test_a_dashboard_compares_methods_over_runs():
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces, which W&B reports need, is not installed")
    (grid,) = dashboard("me/mine", ["full", "uniform"], ["think"], "Mine").blocks
    assert grid.panels[0].metrics == ["methods/full/accuracy", "methods/uniform/accuracy"]
    assert grid.panels[3].metrics == ["methods/full/stages/think/tokens", "methods/uniform/stages/think/tokens"]


def test_a_dashboard_without_its_package_or_project_says_so(monkeypatch):
    with pytest.raises(LiteStageError, match="ENTITY/PROJECT"):
        dashboard("mine", ["full"], [], "Mine")
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    with pytest.raises(LiteStageError, match="pip install wandb-workspaces"):
        dashboard("me/mine", ["full"], [], "Mine")
