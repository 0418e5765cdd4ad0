"""A skipping method in a file of one's own, named like a shipped one; what is wrong with it is one clear sentence."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from litestage.comparison.entrants import row_names
from litestage.errors import LiteStageError
from litestage.methods.shorthand import parse_shorthand, parted, plan_from_shorthand, seeded
from litestage.plan import Plan, SkipSet
from litestage.session.measuring import TaskMeasurements

LAST_FEED_FORWARDS = """
from litestage.plan import SkipSet, StagePlan

def plan(setting):
    last = range(setting.layers - setting.budget, setting.layers)
    return {stage: StagePlan(SkipSet(ffn=tuple(last))) for stage in setting.stages}
"""
RANKED = """
from litestage.plan import SkipSet, StagePlan

def plan(setting):
    order = setting.measurements.order("ranked", setting.budget, lambda forced, known, wanted: [3, 2, 1][:wanted])
    return {stage: StagePlan(SkipSet.of_layers(order)) for stage in setting.stages}
"""


def write(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


def plan_of(spec: str, orders: dict | None = None) -> Plan:
    def of_version(version: str) -> SimpleNamespace:
        def order(method: str, count: int, extend) -> list[int]:
            return (orders if orders is not None else {}).setdefault((method, version), extend(None, [], count))

        return SimpleNamespace(order=order)

    measurements = SimpleNamespace(of_version=of_version)
    return plan_from_shorthand(parse_shorthand(spec), stages=("think", "answer"), layers=4, measurements=measurements)


def test_a_file_is_a_method_with_a_budget_and_an_exit(tmp_path: Path):
    file = write(tmp_path, LAST_FEED_FORWARDS)
    assert parted(f"{file}:2+exit") == (f"{file}:2", ("exit",))
    plan = plan_of(f"{file}:2+exit")
    assert {stage: each.skip for stage, each in plan.stages.items()} == dict.fromkeys(
        ("think", "answer"), SkipSet((), (2, 3))
    )


def test_a_folder_with_a_plus_in_its_name_is_no_suffix(tmp_path: Path):
    (tmp_path / "model+adapter").mkdir()
    file = write(tmp_path / "model+adapter", LAST_FEED_FORWARDS)
    assert parted(f"{file}:2+exit") == (f"{file}:2", ("exit",))
    assert parse_shorthand(f"{file}:2+exit").method == file
    plan = f"{tmp_path}/model+adapter/plan.yaml"
    assert parted(plan) == (plan, ())
    assert parted(f"{plan}+prefix+exit") == (plan, ("exit", "prefix"))
    assert row_names([plan, f"{plan}+exit"]) == {plan: "plan", f"{plan}+exit": "plan+exit"}
    assert seeded(f"{file}:2+exit", 3) == f"{file}:2+exit"


def test_an_edited_file_does_not_find_the_order_of_the_one_before(tmp_path: Path):
    orders: dict[str, list[int]] = {}
    plan_of(f"{write(tmp_path, RANKED)}:2", orders)
    plan_of(f"{write(tmp_path, RANKED)}:2", orders)
    assert list(orders.values()) == [[3, 2]]
    edited = plan_of(f"{write(tmp_path, RANKED.replace('[3, 2, 1]', '[0, 1, 2]'))}:2", orders)
    assert edited["think"].skip == SkipSet((0, 1), (0, 1))


def test_a_session_keeps_the_orders_of_two_versions_apart(monkeypatch):
    kept: dict[str, dict] = {}
    by_key = SimpleNamespace(key=lambda *content: repr(content), known=kept.get, put=kept.__setitem__)
    session = SimpleNamespace(kept=by_key, chat_template=False, calibration_questions=1)
    monkeypatch.setattr(TaskMeasurements, "of_forced", lambda self, measure: measure(None))
    task, pipeline = SimpleNamespace(questions=lambda split: []), SimpleNamespace(hash="p")
    measured = TaskMeasurements(session, "mine.py:2", task, pipeline)
    one, other = (measured.of_version(version) for version in ("one", "other"))
    assert one.order("ranked", 2, lambda forced, known, count: [3, 2]) == [3, 2]
    assert other.order("ranked", 2, lambda forced, known, count: [0, 1]) == [0, 1]
    assert one.order("ranked", 2, lambda forced, known, count: []) == [3, 2]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, r"no method '.*mine\.py'"),
        ("def plan(setting) return", r"mine\.py, line 1: expected ':'"),
        ("plans = 3", r"mine\.py has no function plan\(setting\)"),
        ("import nothing_of_this_name", r"mine\.py, line 1: ModuleNotFoundError: No module named"),
        ("\n1 / 0", r"mine\.py, line 2: ZeroDivisionError: division by zero; correct"),
        ("import sys\nsys.exit(3)", r"mine\.py, line 2: SystemExit: 3"),
        ("def plan(setting):\n    return setting.layer", r"mine\.py, line 2: AttributeError: .*'layer'"),
        (LAST_FEED_FORWARDS.replace("- setting.budget", "- 9"), r"mine\.py: skip\.ffn holds -5"),
        (LAST_FEED_FORWARDS.replace("{stage:", "{7:"), r"plan\(setting\) gave \{7: .*; it gives \{stage"),
        ("def plan(setting): return [1, 2]", r"plan\(setting\) gave \[1, 2\]; it gives \{stage"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, text: str | None, named: str):
    if text:
        write(tmp_path, text)
    with pytest.raises(LiteStageError, match=named) as caught:
        plan_of(f"{tmp_path}/mine.py:2")
    assert "\n" not in str(caught.value)


def test_a_file_is_run_once_in_a_process_and_again_when_it_was_edited(tmp_path: Path):
    counting = f"with open({str(tmp_path / 'runs')!r}, 'a') as file: file.write('x')\n" + LAST_FEED_FORWARDS
    file = write(tmp_path, counting)
    for budget in range(4):
        plan_of(f"{file}:{budget}")
    assert (tmp_path / "runs").read_text() == "x"
    plan_of(f"{write(tmp_path, counting + '# edited')}:2")
    assert (tmp_path / "runs").read_text() == "xx"
