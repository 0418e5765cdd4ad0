"""The paper's greedy search: slowest stage first, lowest latency within the target, calibration split only."""

from dataclasses import dataclass, field
from statistics import fmean
from types import SimpleNamespace

import pytest

from litestage.config import SearchConfig
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.profile import Importance, StepCosts
from litestage.search.calibrated import Calibrated
from litestage.search.candidate import Candidate
from litestage.search.greedy import greedy_search
from litestage.search.problem import SearchProblem
from litestage.session import Session
from litestage.stages import load_pipeline
from litestage.stats import Bound

STAGES = ("recall", "analyze", "summarize")
EACH = (1e-3, 0, 2e-4, 0, 0, 3e-4, 0)
WRITTEN_DOWN = StepCosts(12, EACH, EACH, 0.0)


@dataclass
class Scripted(SearchProblem):
    """A problem whose accuracies and latencies are written down, so that its choices can be checked by hand."""

    tried: list[tuple[int, ...]] = field(default_factory=list)

    def evaluate(self, budgets, rule=None):
        assert rule is None  # none was given
        self.tried.append(tuple(budgets[stage] for stage in STAGES))
        loss = sum(LOSS[stage].get(budget, 0.0) for stage, budget in budgets.items())
        seconds = {stage: SECONDS[stage][budget] for stage, budget in budgets.items()}
        return Candidate(dict(budgets), 1.0 - loss, loss, sum(seconds.values()), seconds, 10.0, 100, dict(budgets))


LOSS = {"recall": {1: 0.03}, "analyze": {1: 0.05, 2: 0.05}, "summarize": {2: 0.01, 3: 0.2}}
SECONDS = {
    "recall": [0.10, 0.05, 0.06, 0.09],
    "analyze": [0.40, 0.20, 0.30, 0.35],  # the fastest two lose too much; 3 is faster than full depth
    "summarize": [0.20, 0.19, 0.15, 0.10],
}


def scripted(reference_session, bound):
    ladder = [StagePlan(skip=SkipSet(mhsa=tuple(range(budget)))) for budget in range(4)]
    return Scripted(
        session=reference_session,
        pipeline=load_pipeline("recall_analyze_summarize"),
        questions=[],
        ladders=dict.fromkeys(STAGES, ladder),
        costs=StepCosts(12, (0.0,) * 7, (0.0,) * 7, 0.0),
        bound=Bound(bound),
    )


@pytest.fixture(scope="module")
def reference_session():
    return Session.open("reference")


def test_the_choice_is_the_fastest_within_the_bound_stage_by_stage(reference_session):
    problem = scripted(reference_session, 0.035)
    found = greedy_search(problem)
    # slowest first: the fourth budget of analyze, then of summarize, then of recall
    assert problem.tried[4:13:4] == [(0, 3, 0), (0, 3, 3), (3, 3, 2)]
    # analyze: 1 and 2 lose 5 points, so 3. summarize: 2 loses 1 point and is the fastest allowed. recall: 1 would lose
    # 3 more than summarize's 1 point, so 2.
    assert found.chosen.budgets == {"recall": 2, "analyze": 3, "summarize": 2}
    assert found.met
    assert len(found.plan["analyze"].skip) == 3
    reasons = {tuple(c.budgets.values()): c.verdict for c in found.candidates}
    assert "+5.0 points, more than 3.5" in reasons[0, 1, 0]
    assert "slower than" in reasons[0, 0, 0]
    assert reasons[2, 3, 2] == "chosen"


def test_every_budget_is_tried_because_accuracy_is_not_monotone(reference_session):
    problem = scripted(reference_session, 0.0)
    greedy_search(problem)
    assert {key[1] for key in problem.tried} == {0, 1, 2, 3}


def test_a_bound_nothing_meets_returns_full_depth(reference_session):
    found = greedy_search(scripted(reference_session, -1.0))
    assert not found.met
    assert all(len(stage.skip) == 0 for stage in found.plan.stages.values())


def test_a_ladder_takes_the_ranking_in_order():
    names = [(kind, layer) for layer in range(3) for kind in ("mhsa", "ffn")]
    order = {name: rank / 100 for rank, name in enumerate(names)}
    reversed_order = {name: -value for name, value in order.items()}
    importance = Importance({"recall": reversed_order, "analyze": order, "summarize": order}, {}, 1)
    session = SimpleNamespace(
        importance=lambda questions, pipeline: importance, engine=SimpleNamespace(decoder=SimpleNamespace(layers=3))
    )
    calibrated = Calibrated(session, load_pipeline("recall_analyze_summarize"), [], SearchConfig(max_budget=2))
    own = calibrated.ladders("per_stage")
    assert own["recall"][1].skip == SkipSet.of(names[:1])
    assert own["analyze"][2].skip == SkipSet.of(names[-2:])
    assert len(own["summarize"][0].skip) == 0
    shared = calibrated.ladders("global")  # two stages of three agree
    assert all(shared[stage] == own["analyze"] for stage in STAGES)


def test_a_real_search_meets_its_own_bound_on_the_calibration_split(tmp_path, monkeypatch):
    from litestage.config import load_config
    from litestage.session.workbench import Workbench

    monkeypatch.setattr(Session, "step_costs", lambda self, forms=(): WRITTEN_DOWN)
    options = ["search.calibration=12", "search.confirm=0", "search.max_budget=3", f"store={tmp_path / 'store.sqlite'}"]
    bench = Workbench.open(load_config(options))
    found = bench.search()
    plans = {"full": Plan.full(STAGES), "found": found.plan}
    right = {name: [t.correct for t in rows] for name, rows in answered(bench, plans).items()}
    assert sum(right["found"]) >= sum(right["full"]) - 0.02 * 12
    assert fmean(right["found"]) == found.chosen.accuracy
    again = Workbench.open(load_config(options)).search()  # everything is in the store
    assert again.plan.hash == found.plan.hash


def answered(bench, plans):
    """The calibration questions under these plans, run apart from any search."""
    return bench.session.without_reuse().run(bench.calibration(), plans, bench.pipeline)


@pytest.mark.parametrize("strategy", ["greedy", "pareto"])
def test_an_exit_rule_that_ruins_the_answers_is_not_found_harmless_because_it_was_on_from_the_start(
    tmp_path, monkeypatch, strategy
):
    from litestage.config import load_config
    from litestage.session.workbench import Workbench

    monkeypatch.setattr(Session, "step_costs", lambda self, forms=(): WRITTEN_DOWN)
    options = [
        "search.calibration=66",
        "search.confirm=0",
        "search.max_budget=1",
        "search.finalists=0",
        f"search.strategy={strategy}",
    ]
    options += ["search.exit=true", "exit.threshold=0.99999", "exit.window=1", f"store={tmp_path / 'store.sqlite'}"]
    bench = Workbench.open(load_config(options))
    plans = {"full": Plan.full(STAGES), "exit": Plan.full(STAGES).with_exit(bench.exit_rule)}
    right = {name: fmean(trace.correct for trace in rows) for name, rows in answered(bench, plans).items()}
    assert right["exit"] < right["full"] - 0.02  # it does ruin them
    found = bench.search()
    assert found.full.accuracy == right["full"]
    assert not found.met
    assert all(stage.exit is None for stage in found.plan.stages.values())
    apart = Workbench.open(load_config([*options, "search.against=full+exit"])).search()
    assert apart.full.accuracy == right["exit"]


@pytest.mark.parametrize("strategy", ["greedy", "pareto"])
def test_selection_never_asks_for_the_test_split(tmp_path, monkeypatch, strategy):
    from litestage.config import load_config
    from litestage.data import Task
    from litestage.session.workbench import Workbench

    real = Task.questions

    def watched(self, split):
        assert split == "calibration"
        return real(self, split)

    monkeypatch.setattr(Task, "questions", watched)
    monkeypatch.setattr(Session, "step_costs", lambda self, forms=(): WRITTEN_DOWN)
    options = ["search.calibration=4", "search.max_budget=1", f"search.strategy={strategy}"]
    options += ["search.finalists=0", f"store={tmp_path / 'store.sqlite'}"]
    Workbench.open(load_config(options)).search()
