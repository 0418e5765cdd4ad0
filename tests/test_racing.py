"""Racing, one budget for all, finalists, and reading the frontier: on questions whose answers are written down."""

import json
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace

import pytest

from litestage.cli.run_plan import best
from litestage.errors import LiteStageError
from litestage.plan import ExitRule, Plan, SkipSet, StagePlan
from litestage.profile import StepCosts
from litestage.search import find_strategy
from litestage.search.candidate import Candidate, SearchResult, frontier
from litestage.search.finalists import by_the_clock, surely_faster
from litestage.search.one_budget import one_budget_search
from litestage.search.problem import SearchProblem
from litestage.search.record import best_within, write_search
from litestage.stages import Question, load_pipeline
from litestage.stats import Bound
from litestage.trace import StageTrace, Trace

STAGES = ("recall", "analyze", "summarize")
PIPELINE = load_pipeline("recall_analyze_summarize")
COSTS = StepCosts(12, (0.0, 0, 1e-3, 0, 0, 1e-3, 0), (0.0, 0, 1e-3, 0, 0, 1e-3, 0), 0.0)


@dataclass
class WrittenDown:
    """A session that gets wrong what it is told to, by how many sub-layers the plan skips in all; more with an exit."""

    wrong: dict[int, set[int]]
    wrong_with_exit: set[int] = field(default_factory=set)
    seconds: dict[int, float] = field(default_factory=dict)
    asked: list[tuple[int, list[str]]] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    engine: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(name="none"))

    def run(self, questions, plans, pipeline, *, timed=False, journal=None, progress=None):
        return {name: [self._trace(question, plan, timed) for question in questions] for name, plan in plans.items()}

    def signed(self, plan, pipeline):
        return plan

    def _trace(self, question, plan, timed):
        skipped = sum(len(stage.skip) for stage in plan.stages.values())
        self.asked.append((skipped, question.id))
        stage_s = self.seconds.get(skipped, 0.3) / 3 if timed else None
        stages = tuple(
            StageTrace(
                name,
                (10,),
                0,
                (self.tokens.get(skipped, 5),),
                ("",),
                ("eos",),
                stage_s and stage_s / 2,
                stage_s and stage_s / 2,
            )
            for name in STAGES
        )
        wrong = self.wrong.get(skipped, set()) | (self.wrong_with_exit if plan["recall"].exit else set())
        right = int(question.id) not in wrong
        return Trace(question.id, plan.hash, stages, "A" if right else "B", right, stage_s and 3 * stage_s)

    def count(self, skipped):
        return sum(budget == skipped for budget, _ in self.asked)


def problem(session, rungs=4, questions=200, bound=0.02, on="accuracy", **options):
    ladder = [StagePlan(skip=SkipSet(mhsa=tuple(range(rung)))) for rung in range(rungs)]
    return SearchProblem(
        session=session,
        pipeline=PIPELINE,
        questions=[Question(str(i), "?", ("a", "b"), "A") for i in range(questions)],
        ladders=dict.fromkeys(STAGES, ladder),
        costs=COSTS,
        bound=Bound(bound, on=on),
        **options,
    )


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.setattr(SearchProblem, "provenance", lambda self, strategy, chosen, full: {"strategy": strategy})


def same(rung):
    return dict.fromkeys(STAGES, rung)


def test_a_plan_that_loses_what_others_lost_is_out_after_those_questions():
    hard = set(range(150, 160))
    session = WrittenDown({3: hard, 6: hard | {170}})
    case = problem(session)
    _, passed = case.race(same(1))
    assert not passed
    assert session.count(3) == 200  # nothing was known: the questions lost stand at the end
    second, passed = case.race(same(2))
    assert not passed
    assert session.count(6) <= 24
    # 10 of 200 are lost at best; that is what is reported, not the share of the hard questions
    assert second.accuracy_drop == pytest.approx(10 / 200)
    assert second.questions == session.count(6)


@pytest.mark.parametrize(("bound", "advice"), [(0.02, "search.calibration to 65 or more, or "), (0.0, "")])
def test_too_few_questions_for_the_bound_end_with_full_depth_and_are_said_to_be_too_few(caplog, bound, advice):
    case = problem(WrittenDown({}), questions=8, bound=bound)
    found = find_strategy("one_budget").run(case)
    assert not found.met
    assert found.plan.hash == case.plan(case.nothing).hash
    assert {candidate.questions for candidate in found.candidates} == {8}  # each was asked something
    assert "8 calibration questions cannot show" in caplog.text
    assert f"Raise {advice}search.max_accuracy_drop." in caplog.text


def test_what_full_depth_gets_wrong_too_is_not_asked_first():
    """A model that is often wrong: its own mistakes say nothing of a plan, and must not crowd out what plans lost."""
    own, lost = set(range(100)), set(range(150, 160))
    session = WrittenDown({0: own, 3: own | lost, 6: own | lost})
    case = problem(session)
    case.evaluate(same(0))
    case.race(same(1))
    assert {int(name) for name in case.answers.lost} == lost
    session.asked.clear()
    case.race(same(2))
    assert {int(name) for _, name in session.asked[:10]} == lost


def test_losing_hard_questions_does_not_count_twice():
    """A plan that loses as much as the bound allows gets through, whatever it was asked first."""
    session = WrittenDown({3: set(range(10)), 6: {0}})
    case = problem(session)
    assert not case.race(same(1))[1]
    candidate, passed = case.race(same(2))
    assert passed
    assert candidate.accuracy_drop == pytest.approx(1 / 200)
    assert candidate.questions == session.count(6) == 200


def test_a_plan_that_rambles_is_out_after_a_few_questions_however_right_it_is():
    session = WrittenDown({}, tokens={3: 50})
    case = problem(session)
    rambling, passed = case.race(same(1))
    assert not passed
    assert rambling.verdict == "dropped early: slower than full depth on 16 questions"
    assert rambling.questions == session.count(3) == 16
    assert rambling.latency_s > case.full().latency_s
    _, passed = case.race(same(2))
    assert passed
    found = one_budget_search(problem(WrittenDown({}, tokens={3: 50, 9: 50}), rungs=4))
    assert found.chosen.budgets == same(2)
    assert [candidate.questions for candidate in found.candidates] == [16, 200, 16]


def test_a_plan_that_writes_no_more_than_full_depth_is_asked_all():
    for tokens in ({}, {3: 4}):
        assert problem(WrittenDown({}, tokens=tokens)).race(same(1))[0].questions == 200


def test_full_depths_own_mistakes_can_be_won_back():
    session = WrittenDown({0: set(range(20)), 3: {100, 101, 102, 103}})
    candidate, passed = problem(session).race(same(1))
    assert passed
    assert candidate.accuracy_drop == pytest.approx(-16 / 200)


def test_what_the_exit_rule_loses_is_part_of_a_candidates_drop_unless_asked_otherwise():
    rule, lost = ExitRule(), set(range(30, 36))
    case = problem(WrittenDown({3: {0, 1}}, wrong_with_exit=lost), exit=rule)
    assert case.full().accuracy == 1
    assert case.full().exit is None
    assert case.evaluate(same(1), rule).accuracy_drop == pytest.approx(8 / 200)
    assert case.evaluate(same(1)).accuracy_drop == pytest.approx(2 / 200)
    assert not case.race(same(1), rule)[1]
    apart = problem(WrittenDown({3: {0, 1}}, wrong_with_exit=lost), exit=rule, reference_exit=rule)
    assert apart.full().exit_rule == rule
    assert apart.evaluate(same(1), rule).accuracy_drop == pytest.approx(2 / 200)


def test_answers_that_change_both_ways_show_in_the_agreement_and_not_in_the_drop():
    candidate = problem(WrittenDown({0: set(range(10)), 3: set(range(10, 20))})).evaluate(same(1))
    assert candidate.accuracy_drop == 0
    assert candidate.agreement == pytest.approx(1 - 20 / 200)


def test_one_budget_is_the_fastest_within_the_bound_not_the_last():
    session = WrittenDown({3: set(), 6: set(range(30)), 9: {5}})
    found = one_budget_search(problem(session))
    assert found.chosen.budgets == same(3)  # three sub-layers in each stage: 9 in all
    assert [c.verdict.split(":")[0] for c in found.candidates] == ["within the bound", "dropped", "chosen"]
    nothing = one_budget_search(problem(WrittenDown({skipped: set(range(50)) for skipped in (3, 6, 9)})))
    assert not nothing.met
    assert nothing.chosen.budgets == same(0)


def test_finalists_are_timed_and_prediction_stands_where_the_clock_does_not_contradict():
    case = problem(WrittenDown({}, seconds={0: 0.3, 3: 0.2, 6: 0.1}), finalists=2, timed_questions=6)
    slow, fast, full = (case.evaluate(same(rung)) for rung in (1, 2, 0))
    chosen = by_the_clock(case, [slow, fast], full)  # predicted the wrong way round
    assert chosen[0].plan == fast.plan
    assert (chosen[0].measured_s, chosen[0].measured_full_s) == pytest.approx((0.1, 0.3))
    assert not surely_faster([1.0, 1.1, 0.9, 1.0], [1.0, 1.0, 1.0, 1.0])
    assert surely_faster([0.9, 0.8, 0.9, 0.85], [1.0, 1.0, 1.0, 1.0])


def test_a_rule_that_cuts_little_is_not_worth_trying():
    session = WrittenDown({})
    traced = session._trace

    def unsure_at_the_end(question, plan, timed):
        trace = traced(question, plan, timed)
        confidences = ((0.9, 0.9, 0.9, 0.2, 0.2),)
        return replace(trace, stages=tuple(replace(stage, confidences=confidences) for stage in trace.stages))

    session._trace = unsure_at_the_end
    case = problem(session)
    assert case.cut_share(same(1), ExitRule(threshold=0.5, window=2)) == 0  # ends with the last token anyway
    assert case.cut_share(same(1), ExitRule(threshold=0.6, window=2)) == pytest.approx(1 / 5)


def candidate(plan, drop, upper, latency):
    empty = dict.fromkeys(STAGES, 1)
    by_stage = dict.fromkeys(STAGES, latency / 3)
    return Candidate(empty, 1 - drop, drop, latency, by_stage, 1.0, 100, empty, plan.hash, accuracy_drop_upper=upper)


def test_a_search_that_bounds_agreement_is_told_in_answers_that_changed(tmp_path, capsys):
    session = WrittenDown({3: {1}})
    for on, told in (("agreement", "0.5 % of answers changed on"), ("accuracy", "+0.5 points on")):
        found = one_budget_search(problem(session, rungs=2, bound=0.05, on=on))
        assert found.chosen.budgets == same(1)
        write_search(replace(found, plans={found.plan.hash: found.plan}), tmp_path)
        best(tmp_path, 0.05, as_json=False)
        assert told in capsys.readouterr().out.replace("\n", " ")


def test_a_search_that_tried_nothing_has_an_empty_frontier():
    assert frontier([]) == []


def test_the_best_plan_within_any_drop_is_read_off_the_frontier(tmp_path):
    plans = [Plan({"recall": StagePlan(skip=SkipSet(mhsa=tuple(range(n))))}) for n in (1, 2, 3)]
    tried = [
        candidate(plan, *figures)
        for plan, figures in zip(plans, ((0.0, 0.005, 3.0), (0.01, 0.02, 2.0), (0.04, 0.06, 1.0)), strict=True)
    ]
    found = SearchResult(plans[1], tried[1], tried[0], tried, True, {plan.hash: plan for plan in plans})
    write_search(found, tmp_path)
    assert json.loads((tmp_path / "search.json").read_text())["chosen"] == json.loads(json.dumps(asdict(tried[1])))
    for allowed, expected in ((0.005, 0), (0.019, 0), (0.02, 1), (0.5, 2)):
        path, entry = best_within(tmp_path, allowed)
        assert path.stem == plans[expected].hash == entry["plan"]
    with pytest.raises(LiteStageError, match=r"sure to lose at most 0\.4%.*the least is 0\.5%"):
        best_within(tmp_path, 0.004)
    write_search(replace(found, on="agreement"), tmp_path)
    assert best_within(tmp_path, 0.02)[1]["on"] == "agreement"
    with pytest.raises(LiteStageError, match=r"sure to change at most 0\.4%"):
        best_within(tmp_path, 0.004)
    with pytest.raises(LiteStageError, match=r"search\.json"):
        best_within(tmp_path / "nowhere", 0.1)
