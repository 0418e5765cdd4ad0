"""litestage ask: one question, what its stages write under full depth and under a plan, and what each took."""

import json

import pytest

from litestage.cli import main


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


def test_without_a_question_the_tasks_first_test_question_is_asked(asked, tmp_path):
    code, printed = asked(f"store={tmp_path / 'store.sqlite'}", "--json")
    assert code in (0, None)
    said = json.loads(printed.out.splitlines()[-1])
    assert set(said) == {"question", "options", "full"}
    assert said["full"]["correct"]


def test_options_without_a_question_are_refused(asked):
    code, printed = asked("--option", "river")
    assert code == 2
    assert "options a question" in printed.err
