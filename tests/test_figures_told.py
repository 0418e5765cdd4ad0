"""What is told of results: every figure is of the questions and plans that its words name."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from run_folders import FULL, candidate, method, results
from test_gate import run_folder
from test_selection import honest, task

from litestage.comparison.results import Measured
from litestage.comparison.samples import write_samples
from litestage.errors import LiteStageError
from litestage.experiment.panels import over_budgets
from litestage.experiment.sensitivity import what_stages_bear
from litestage.experiment.trials import Trials
from litestage.gate import GateOptions, judge, read_record
from litestage.gate.summary import sentences
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan, save_plan
from litestage.profile.costs import StandInCosts, StepCosts
from litestage.report.failures import failures
from litestage.report.pictures import search_pictures
from litestage.report.runs import Run
from litestage.report.tables import methods_table
from litestage.stages import Question
from litestage.trace import StageTrace, Trace


def answered(question="q0", stop="eos", latency_s=None):
    """A question's trace of one stage."""
    whole = stop == "eos"
    stage = StageTrace("think", (9,), 0, (4 if whole else 0,), ("A",), (stop,))
    return Trace(question, "p", (stage,), "A" if whole else None, whole, latency_s)


def bench(**session):
    session = SimpleNamespace(batch_size=8, reusing=SimpleNamespace(store=None), **session)
    return SimpleNamespace(session=session, pipeline=SimpleNamespace(stage_names=["think"]))


def test_an_experiments_predicted_times_have_the_price_of_what_stands_in():
    def step_costs(forms=()):
        price = StandInCosts((0.5, 0.0), (0.5, 0.0))
        by_sublayer = (0, 0, 1, 0, 0, 1, 0)
        return StepCosts(2, by_sublayer, by_sublayer, 0.0, {form: price for form in forms if form != "none"})

    class Answered(Trials):
        def traces(self, plan, *_, **__):
            return [answered()]

    trials, cut = Answered(bench(step_costs=step_costs), ["a question"]), SkipSet(mhsa=(1,))
    bare = Plan({"think": StagePlan(skip=cut)})
    filled = Plan({"think": StagePlan(skip=cut, compensation="scale", tensors={"mhsa.1": torch.ones(4)})})
    assert trials.seconds(filled) == pytest.approx([trials.seconds(bare)[0] + 4 * 0.5])  # prefill and three steps


def test_a_question_that_did_not_fit_has_no_time_in_an_experiment():
    timed = {
        "full": [answered("q0", latency_s=2.0), answered("q1", latency_s=4.0)],
        "skips": [answered("q0", latency_s=1.0), answered("q1", "too_long", latency_s=0.001)],
    }
    trials = Trials(bench(run=lambda *_, **__: timed), ["q0", "q1"])
    assert trials.by_the_clock({}, 2) == {"full": [2.0], "skips": [1.0]}
    with pytest.raises(LiteStageError, match="None of the 1 timed questions fits the context"):
        Trials(bench(run=lambda *_, **__: {"full": timed["skips"][1:]}), ["q1"]).by_the_clock({}, 2)


def test_samples_have_times_of_questions_that_every_method_took_to_their_end(tmp_path):
    questions = [Question(f"q{at}", "Why?", ("this", "that"), "A") for at in range(2)]
    untimed = [answered("q0"), answered("q1")]
    late = [answered("q0", latency_s=1.0), answered("q1", "too_long", latency_s=0.001)]
    full = [answered("q0", latency_s=2.0), answered("q1", latency_s=4.0)]
    plan = Plan({"think": StagePlan()})
    write_samples(questions, {"full": Measured(plan, untimed, full), "skips": Measured(plan, untimed, late)}, tmp_path)
    found = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [line.get("latency_s") for line in found] == [2.0, None, 1.0, None]


@pytest.fixture
def shows(litestage, tmp_path):
    """Runs a small experiment in this process; what it shows, as one text, and its results."""

    def run(name, *options):
        store = f"store={tmp_path / 'store.sqlite'}"
        code, _, err = litestage(
            "experiment", name, "questions=6", "search.strategy=greedy", *options, store, "output=here"
        )
        assert code == 0, err
        found = json.loads((tmp_path / "here" / "results.json").read_text())
        return " ".join(found["shows"]), found

    return run


@pytest.mark.slow
def test_a_search_is_judged_on_as_many_other_questions_as_there_are(shows, tmp_path):
    mine = task(tmp_path / "mine", honest, honest)
    said, found = shows(
        *("noise", f"task={mine}", "search.calibration=6", "search.max_budget=2", "search.confidence=0.995"),
        *("repeats=2", "fresh=5000", "uncertified=0", "search.bound=agreement"),
    )
    assert "On 8 other questions they lose" in said
    assert "0.5% is stated" in said
    assert found["n"] == 8
    assert "answers truly as full depth" in (tmp_path / "here" / "plot.svg").read_text()


def test_a_simulated_guarantee_is_held_to_the_confidence_that_was_asked_for(shows):
    said, _ = shows("certificate", "searches=50", "sizes=[200]", "bounds=[0.1]", "search.confidence=0.995")
    assert "where 0.5% is allowed; the interval ends below 1.5% for" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adaptive-exit", ["plans=[cosine:6]", "rules=[confidence]", "search.confirm=4"]),
        ("transfer", ["others=[menagerie@menagerie_two_stage]", "search.max_budget=2"]),
    ],
)
def test_a_bound_on_agreement_is_told_as_answers_that_change(shows, name, options):
    said, found = shows(
        name, *options, "search.calibration=8", "search.max_accuracy_drop=0.5", "search.bound=agreement"
    )
    assert "change at most 50 % of answers" in said
    assert found["bounded"] == "agreement"


def test_an_uncut_plan_has_no_exit_rule_of_its_own(shows, tmp_path):
    rule = ExitRule("confidence", 0.9999, 1)
    save_plan(
        Plan({stage: StagePlan(exit=rule) for stage in ("recall", "analyze", "summarize")}), tmp_path / "cut.yaml"
    )
    _, found = shows("threshold", f"plans=[{tmp_path / 'cut.yaml'}]", "thresholds=[0.9999]", "windows=[1]")
    uncut, cut = (sum(stage["cut"] for stage in row["stages"].values()) for row in found["rows"])
    assert uncut == 0 < cut


@pytest.mark.parametrize(
    ("name", "option", "twice"),
    [
        ("deep", "budgets=[4,4]", "4"),
        ("calibration", "rankings=[cosine,cosine]", "'cosine'"),
        ("scale", "depths=[3,6,12,12]", "12"),
        ("protocol", "sizes=[50,50]", "50"),
        ("heuristics", "policies=[uniform,cosine,uniform]", "'uniform'"),
    ],
)
def test_a_value_that_is_given_twice_does_not_count_twice(litestage, name, option, twice):
    code, out, err = litestage("experiment", name, option)
    assert (code, out) == (2, "")
    assert f"{option.partition('=')[0]} has {twice} twice" in err


def test_a_step_that_leaves_no_budget_is_refused(litestage):
    code, out, err = litestage(
        "experiment", "sensitivity", "step=13", "rankings=[cosine]", "search.calibration=4", "questions=1"
    )
    assert (code, out) == (2, "")
    assert "step is 13, which leaves nothing to skip; give at most 12" in err


def test_a_picture_leaves_no_line_out_for_want_of_a_colour():
    names = [f"ranking {at}" for at in range(11)]
    rows = [
        {"stage": "recall", "ranking": name, "budget": budget, "lost": 0.1, "lost_ci95": [0.0, 0.2]}
        for name in names
        for budget in (2, 4)
    ]
    figure = over_budgets(rows, names, "lost", title="{}", y="lost")
    assert figure.axes[0].get_legend_handles_labels()[1] == names


def losing(budget, low):
    """A row of a plan that loses at least so much."""
    drop = {"accuracy_drop": low + 0.02, "accuracy_drop_ci95": [low, low + 0.04]}
    return {"ranking": "fidelity", "stage": "analyze", "budget": budget, **drop}


def test_a_larger_budget_that_does_not_measurably_lose_is_named():
    rows = [losing(0, -0.02), losing(2, 0.01), losing(4, 0.03), losing(6, -0.01), losing(8, 0.2)]
    assert what_stages_bear(rows, "fidelity", 24).endswith(
        "analyze loses measurably from 2 on, 3.0 points (95 % interval 1.0 to 5.0), but not at 6."
    )


def test_the_gate_tells_the_speed_ups_of_the_questions_that_it_pairs_and_which_are_gone(tmp_path):
    """Ten of 100 questions are left, on which the speed-up fell by half, whatever the file says of others."""
    before = run_folder(tmp_path / "before", {"full": [], "skips": []}, seconds={"skips": 0.5})
    after = run_folder(tmp_path / "after", {"full": [], "skips": []}, seconds={"skips": 1.0})
    found, samples = json.loads(after.read_text()), after.with_name("samples.jsonl")
    found["n"] = 10
    found["methods"][1] |= {"speedup": 9.0, "speedup_ci95": [8.9, 9.1]}  # as if over others
    after.write_text(json.dumps(found))
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines if int(line["id"][1:]) < 10))
    verdict = judge(read_record(before), read_record(after), GateOptions())
    (speed,) = (figure for figure in verdict.figures if figure.name == "speed-up")
    assert speed.regression
    assert speed.worse
    assert speed.before == pytest.approx(2, rel=0.05)
    assert speed.after == pytest.approx(1, rel=0.05)
    assert any("90 of the baseline's 100 questions were not asked now" in note for note in verdict.notes)
    assert sentences(verdict)[-1] == f"Failed: 1 of {len(verdict.figures)} figures compared."


def test_what_is_missing_is_no_figure_that_was_compared(tmp_path):
    before = run_folder(tmp_path / "before", {"full": [], "skips": []})
    after = run_folder(tmp_path / "after", {"full": []})
    assert sentences(judge(read_record(before), read_record(after), GateOptions()))[-1] == "Failed: 1 missing."


def test_a_line_of_the_search_joins_no_plan_with_another_exit_rule():
    """The last of the plans that skip nothing has an exit rule and answers at 10 %."""
    tried = [candidate(2, 0, 0.8), candidate(4, 0, 0.7), candidate(0, 0, 0.1) | {"exit": {"rule": "confidence"}}]
    full = candidate(0, 0, 0.9)
    picture = search_pictures({"full": full, "chosen": full, "candidates": tried})[1]
    line = next(line for line in picture.figure.axes[0].get_lines() if line.get_linestyle() == "-")
    assert list(line.get_xdata()) == [0, 2, 4]
    assert list(line.get_ydata()) == pytest.approx([90, 80, 70])


def test_a_text_that_is_a_little_longer_is_not_said_not_to_be():
    slow = method("cosine", 0.9, 0.8, [0.7, 0.9], skipped=4, tokens=100.9)
    found = results(method("full", 0.9, 1.0, [1.0, 1.0], tokens=100), slow)
    (said,) = failures(Run(Path(), comparison=found))
    assert "its texts are hardly longer (105 tokens a question, full depth 104)" in said


def test_what_a_tables_words_are_of_is_said():
    found = results(FULL, method("full+prefix", 0.9, 1.1, [1.0, 1.2], same_text=0.93, mcnemar_p_holm=1.0))
    remarks = " ".join(methods_table(found | {"minimum_detectable_drop": {"drop": 0.02, "power": 0.8}}).remarks)
    assert "it is the share of the timed questions" in remarks
    assert "on so many questions, before p is adjusted." in remarks
