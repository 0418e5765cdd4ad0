"""The command line: what works says where it wrote; what is wrong is one clear sentence and exit code 2."""

import json
import re
import subprocess
import sys
import time

import pytest
import yaml

from litestage.cli.output import say_unused
from litestage.comparison import write
from litestage.errors import LiteStageError
from litestage.session.workbench import Workbench


def assert_one_sentence(result, *names):
    """Exit code 2, nothing on standard output, at most three lines, no traceback, and the value is named."""
    code, out, err = result
    assert code == 2, (out, err)
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) <= 3, err
    assert out == ""
    for name in names:
        assert str(name) in err, err


SMALL = ("search.calibration=4", "search.max_budget=1", "questions=4", "latency_questions=2", "store=store.sqlite")


def plan_file(folder, **stages):
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"schema": "litestage.plan/1", "stages": stages}))
    return path


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("serach.max_accuracy_drop=0.1", ["'serach.max_accuracy_drop'", "'search.max_accuracy_drop'"]),
        ("search.max_acuracy_drop=0.1", ["max_accuracy_drop"]),
        ("search.max_accuracy_drop=little", ["search.max_accuracy_drop", "little"]),
        ("search.strategy=fast", ["fast", "greedy"]),
        ("search.calibration=0", ["search.calibration", "0"]),
        ("search.max_budget=-1", ["search.max_budget", "-1"]),
        ("budget=-4", ["budget", "-4"]),
        ("task=menagerei", ["menagerei", "menagerie"]),
        ("model=qwen2.5-0.5", ["qwen2.5-0.5", "qwen2.5-0.5b"]),
        ("model.pretrained=./no/such/folder", ["./no/such/folder"]),
        ("pipeline=recal", ["recal"]),
        ("analyze=per_opton", ["per_opton", "per_option"]),
        ("max_new_tokens.reason=3", ["reason"]),
        ("engine.device=cuda", ["cuda"]),
        ("engine.dtype=float31", ["float31", "float32"]),
        ("methods=[full,cosin:4]", ["cosin", "cosine"]),
        ("methods=[full,uniform:-2]", ["-2"]),
        ("methods=[full,uniform:x]", ["uniform:x"]),
        ("methods=[full,uniform:40]", ["40"]),
        ("methods=[full,missing.yaml]", ["missing.yaml"]),
        ("exit.threshold=1.5", ["1.5"]),
        ("exit.rule=confidance", ["confidance", "confidence"]),
        ("nonsense", ["nonsense", "key=value"]),
    ],
)
def test_a_wrong_option_is_named(litestage, override, named):
    if "cuda" in override and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    base = [option for option in (*SMALL, "methods=[full+exit]") if option.split("=")[0] != override.split("=")[0]]
    assert_one_sentence(litestage("compare", *base, override), *named)


def test_a_budget_beyond_the_model_is_named(litestage):
    assert_one_sentence(litestage("search", "search.max_budget=999", "store=store.sqlite"), "999", "sub-layers")


def test_the_hub_out_of_reach_is_said_plainly(tmp_path):
    environment = {**__import__("os").environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [
        sys.executable,
        "-c",
        "from litestage.cli import main; main()",
        "search",
        "model.pretrained=nobody/nothing",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=240)
    lines = [line for line in done.stderr.splitlines() if line.startswith("litestage:")]
    assert done.returncode == 2
    assert len(lines) == 1
    assert "nobody/nothing" in lines[0]
    assert "out of reach" in lines[0]
    assert "Traceback" not in done.stderr


def test_an_unsupported_family_is_named_with_the_supported_ones(litestage, tmp_path):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]})
    )
    assert_one_sentence(litestage("search", "model.pretrained=./gpt", *SMALL), "gpt2", "llama", "olmo2")


def test_a_folder_that_is_no_model_is_named(litestage, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_one_sentence(litestage("search", "model.pretrained=./empty", *SMALL), "./empty")


def test_a_plan_for_another_model_is_refused(litestage, tmp_path):
    path = plan_file(tmp_path, recall={"skip": {"mhsa": [1]}})
    raw = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**raw, "model": {"name": "other", "layers": 99, "fingerprint": "feed"}}))
    assert_one_sentence(litestage("plan", "validate", path), "99", "other")


def test_a_plan_that_names_a_layer_that_is_not_there_is_refused(litestage, tmp_path):
    assert_one_sentence(
        litestage("plan", "validate", plan_file(tmp_path, recall={"skip": {"ffn": [77]}})), "77", "recall"
    )


def test_a_plan_that_names_an_unknown_stage_is_refused(litestage, tmp_path):
    assert_one_sentence(litestage("plan", "validate", plan_file(tmp_path, analyse={})), "analyse", "analyze")


def test_a_malformed_or_absent_plan_is_refused(litestage, tmp_path):
    (tmp_path / "bad.yaml").write_text("stages: [")
    assert_one_sentence(litestage("plan", "validate", "bad.yaml"), "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    assert_one_sentence(litestage("plan", "show", "list.yaml"), "litestage.plan/1")
    assert_one_sentence(litestage("plan", "show", "absent.yaml"), "absent.yaml")


def test_a_pipeline_that_names_an_unknown_stage_is_refused(litestage, tmp_path):
    pipeline = {"stages": [{"name": "recall", "prompt": "{{ question }} {{ recal }}"}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(pipeline))
    assert_one_sentence(litestage("search", "pipeline=mine.yaml", *SMALL), "recal", "recall")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"question": "Why?", "options": [], "answer": "A"}, "no options"),
        ({"question": "Why?", "options": ["x", "y"], "answer": "C"}, "'C'"),
        ({"question": " ", "options": ["x", "y"], "answer": "A"}, "empty"),
    ],
)
def test_a_malformed_task_row_is_named(litestage, tmp_path, row, named):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    task = {"rows": {"calibration": "rows.jsonl", "test": "rows.jsonl"}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    assert_one_sentence(litestage("search", "task=mine.yaml", *SMALL), "rows.jsonl", named)


def test_compare_writes_results_that_hold_what_it_printed(litestage, tmp_path):
    methods = "methods=[full,full+exit,full-half,uniform,cosine,adaskip,litestage,litestage+exit]"
    code, out, err = litestage("compare", *SMALL, methods, "output=here", "--json")
    assert code == 0, err
    printed = json.loads(out.strip().splitlines()[-1])
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert printed == {key: value for key, value in results.items() if key != "schema"}
    assert results["schema"] == "litestage.results/1"
    assert [m["name"] for m in results["methods"]] == methods[9:-1].split(",")
    for method in results["methods"]:
        assert method["latency_n"] == 2
        assert list(method["stages"]) == ["recall", "analyze", "summarize"]
        assert sum(method["stages"]["analyze"]["stops"].values()) == 4 * 4
        assert method["name"] in out
    full = results["methods"][0]
    assert (full["accuracy_drop"], full["speedup"]) == (0, 1)
    search = json.loads((tmp_path / "here" / "search.json").read_text())
    assert [row["latency_s"] for row in search["frontier"]] == sorted(row["latency_s"] for row in search["frontier"])
    assert min(row["latency_s"] for row in search["candidates"]) == search["frontier"][0]["latency_s"]
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["search"]["calibration"] == 4
    page = (tmp_path / "here" / "report.html").read_text()
    assert "litestage+exit" in page
    assert "://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)  # names of XML's vocabularies, which nobody fetches
    plan = litestage("plan", "validate", "here/plan.yaml")
    assert plan[0] == 0
    assert "fits reference" in plan[1]


def test_a_folder_used_again_holds_one_run_only(litestage, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    options = (*SMALL, "output=here")
    assert litestage("compare", *options, "methods=[full,litestage]")[0] == 0
    assert (folder / "search.json").exists()
    assert (folder / "plan.yaml").exists()
    assert litestage("compare", *options, "methods=[full,random:2]")[0] == 0
    assert not {"search.json", "plan.yaml"} & {path.name for path in folder.iterdir()}
    assert litestage("report", "here")[0] == 0

    def broken(bench):
        raise LiteStageError("The machine is on fire; put it out.")

    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(write, "compare", broken)
    assert_one_sentence(litestage("compare", *options, "methods=[full,random:4]"), "on fire")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_run_does_not_go_into_a_folder_of_another_commands(litestage, tmp_path):
    assert litestage("compare", *SMALL, "methods=[full]", "output=here")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir() if path.is_file()}
    assert_one_sentence(litestage("search", *SMALL, "output=here"), "here", "results.json", "output=")
    assert_one_sentence(litestage("experiment", "sensitivity", *SMALL, "output=here"), "samples.jsonl", "output=")
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["methods=[litestage,uniform:3]"], "even"),
        (["methods=[litestage,cosine:best,other.yaml]"], "other.yaml: The plan was made for a model of 99 layers"),
        (["methods=[litestage,full-half]", "model=reference-half"], "reference-half"),
        (["methods=[litestage,full-int8]", "engine.dtype=float32"], "bfloat16"),
    ],
)
def test_a_row_that_cannot_be_is_told_before_the_searches(litestage, tmp_path, monkeypatch, options, named):
    monkeypatch.setattr(Workbench, "search", lambda *_: pytest.fail("It searched."))
    plan = {"schema": "litestage.plan/1", "model": {"layers": 99, "name": "other"}, "stages": {}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(plan))
    assert_one_sentence(litestage("compare", *SMALL, *options), named)


def test_a_plan_that_is_compared_stays_with_its_search(litestage, tmp_path):
    code, out, _ = litestage("search", *SMALL, "output=here")
    assert (code, "as 3 confirming questions are too few, so the plan is full depth" in out) == (0, True), out
    code, _, err = litestage("compare", *SMALL, "methods=[full,here/plan.yaml]", "output=here")
    assert code == 0, err
    assert {"search.json", "plan.yaml", "results.json"} <= {path.name for path in (tmp_path / "here").iterdir()}


def test_a_bound_that_no_plan_meets_gives_full_depth_and_says_so(litestage, tmp_path):
    code, out, _ = litestage("search", *SMALL, "search.max_accuracy_drop=-2", "output=here")
    assert code == 0
    assert "the plan is full depth" in out
    stages = yaml.safe_load((tmp_path / "here" / "plan.yaml").read_text())["stages"]
    assert all(stage["skip"] == {"mhsa": [], "ffn": []} for stage in stages.values())


def test_profile_ranks_every_sublayer(litestage, tmp_path):
    code, out, _ = litestage("profile", *SMALL, "output=here")
    assert code == 0
    profile = json.loads((tmp_path / "here" / "profile.json").read_text())
    assert set(profile["importance"]["cosine"]) == {"recall", "analyze", "summarize"}
    assert all(0 < value <= 1.0001 for value in profile["importance"]["cosine"]["recall"].values())
    assert "mhsa 0" in out


def test_plan_show_prints_what_a_shorthand_skips(litestage):
    code, out, _ = litestage("plan", "show", "uniform:4+exit", "store=store.sqlite")
    assert code == 0
    assert "analyze" in out
    assert "confidence <= 0.5 over 5" in out


def test_help_answers_without_loading_anything_heavy():
    code = (
        "import sys; sys.argv=['litestage','--help']\nfrom litestage.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch','transformers','lightning','lm_eval','wandb','scipy'} & set(sys.modules)))"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stdout + done.stderr
    assert time.perf_counter() - started < 60  # a hang, not a benchmark


def test_options_of_comparisons_are_said_to_do_nothing_elsewhere(capsys):
    say_unused("search", ["methods=[full]", "budget=4", "search.max_budget=2", "methods=[full]"])
    said = capsys.readouterr().err.splitlines()
    assert said == ["litestage search makes no use of methods.", "litestage search makes no use of budget."]


def test_a_comparison_does_not_take_the_place_of_a_search(litestage, tmp_path):
    assert litestage("search", *SMALL, "output=here")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir() if path.is_file()}
    for methods in ("methods=[full]", "methods=[full,litestage]"):
        assert_one_sentence(litestage("compare", *SMALL, methods, "output=here"), "here", "search.json", "output=")
    assert {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir() if path.is_file()} == before


def test_python_m_litestage_is_the_command():
    done = subprocess.run([sys.executable, "-m", "litestage", "plan", "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "litestage plan" in done.stdout


@pytest.mark.parametrize(("fit", "n"), [((), None), ((1,), 1)])
def test_timed_questions_that_do_not_fit_the_context_leave_results_and_a_reason(litestage, tmp_path, fit, n):
    """Two of four questions are timed: if neither fits there is no speed-up, said why; else it is over the rest."""
    long, short = "Where does " + "the grey " * 1500 + "turtle live?", "Where does the turtle live?"
    rows = [{"question": short, "options": ["river", "burrow"], "answer": "A"} for _ in range(4)]
    for at in {0, 1} - set(fit):
        rows[at]["question"] = long
    for split, written in (("calibration", rows[2:]), ("test", rows)):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    (tmp_path / "mine.yaml").write_text(
        "rows: {calibration: calibration.jsonl, test: test.jsonl}\npipeline: recall_analyze_summarize\n"
    )
    code, out, err = litestage("compare", "task=mine.yaml", "methods=[full,uniform:8]", "output=out", *SMALL)
    assert code == 0, err
    results = json.loads((tmp_path / "out/results.json").read_text())
    reason = "none of the 2 timed questions fits the context of 2048 tokens" if n is None else "the 1 of 2 timed"
    assert reason in results["latency_measured"]
    assert reason in (tmp_path / "out/report.html").read_text()
    assert (reason in out) == (n is None)
    for method in results["methods"]:
        assert method.get("latency_n") == n
        assert ("speedup" in method) == ("ttft_s" in method) == (n is not None)
        assert method["too_long"] == 2 - len(fit)
