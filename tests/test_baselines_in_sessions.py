"""The baselines in a session: measured on a task, kept, written to files, and answering alike however they are run."""

from dataclasses import replace

import pytest
from tiny import PIPELINE, some_questions, staged_model

from litestage.comparison.results import Measured, summarise
from litestage.config import SearchConfig, load_config
from litestage.engine import Engine
from litestage.errors import LiteStageError
from litestage.methods import METHODS, finercut
from litestage.plan import load_plan, save_plan
from litestage.profile import StandInCosts
from litestage.session import Session
from litestage.session.workbench import Workbench
from litestage.store import ResultStore, ReusingEngine

RANKING = ("cosine", "adaskip", "adaskip-paper", "attention-only", "ffn-only", "shortgpt", "sleb", "finercut")
MEASURING = (*RANKING, "replaceme", "ghosted", "linearpatch", "sprint", "sprint-bare")


class Task:
    name = "tiny"

    def questions(self, split):
        assert split == "calibration"
        return some_questions(4)


@pytest.fixture
def session(tmp_path):
    loaded = staged_model()
    store = ResultStore(tmp_path / "results.sqlite")
    engine = Engine(loaded.model, loaded.tokenizer)
    return Session(loaded, engine, ReusingEngine(engine, loaded.fingerprint, store), calibration_questions=3)


@pytest.mark.parametrize("method", MEASURING)
def test_what_is_measured_needs_a_task(session, method):
    with pytest.raises(LiteStageError, match=rf"'{method}:2'.*calibration split.*uniform:K"):
        session.plan(f"{method}:2", None, None)


@pytest.mark.parametrize("method", ["sleb", "finercut", "shortgpt", "sprint", "sprint-bare"])
def test_one_ranking_serves_every_budget(session, method, monkeypatch):
    larger = session.plan(f"{method}:4", Task(), PIPELINE)["recall"].skip
    monkeypatch.setattr("litestage.session.session.run", lambda *_, **__: pytest.fail("measured again"))
    smaller = session.plan(f"{method}:2", Task(), PIPELINE)["recall"].skip
    assert set(smaller.names) < set(larger.names)
    assert session.plan(f"{method}:4", Task(), PIPELINE)["recall"].skip == larger


def test_what_sprint_solved_on_the_way_is_what_it_would_solve_for_a_budget_alone(session):
    hashes = {budget: session.plan(f"sprint:{budget}", Task(), PIPELINE).hash for budget in (4, 2, 5)}
    for budget, found in hashes.items():
        assert replace(session, held={}).plan(f"sprint:{budget}", Task(), PIPELINE).hash == found


@pytest.mark.parametrize("method", MEASURING)
def test_a_plan_is_the_same_however_often_it_is_made(session, method):
    """By its hash, under which answers are found again: what is solved for is the same to the last bit."""

    def made():
        kept = ReusingEngine(session.engine, session.loaded.fingerprint, ResultStore())
        return replace(session, reusing=kept, held={}).plan(f"{method}:4", Task(), PIPELINE).hash

    assert len({made() for _ in range(8)}) == 1


def test_a_larger_budget_takes_the_ranking_up_where_it_ended(session, monkeypatch):
    session.plan("finercut:3", Task(), PIPELINE)
    known = []
    extend = finercut.extend
    monkeypatch.setattr(
        finercut, "extend", lambda forced, order, count: known.append(list(order)) or extend(forced, order, count)
    )
    session.plan("finercut:5", Task(), PIPELINE)
    assert [len(order) for order in known] == [3]


def test_skipdecode_reads_the_stages_limits(session):
    plan = session.plan("skipdecode:4", Task(), PIPELINE)
    assert [step["from"] for step in plan["recall"].schedule["steps"]] == [5, 8]  # 2 layers over 7 tokens
    assert plan["analyze"].schedule["steps"][-1]["from"] == 6


@pytest.mark.parametrize("method", ["replaceme", "ghosted", "linearpatch", "sprint", "adaskip-paper", "skipdecode"])
def test_a_baselines_plan_survives_its_file(session, tmp_path, method):
    plan = session.plan(f"{method}:4", Task(), PIPELINE)
    save_plan(plan, tmp_path / "plan.yaml")
    assert load_plan(tmp_path / "plan.yaml") == plan
    assert session.plan(str(tmp_path / "plan.yaml"), Task(), PIPELINE).hash == plan.hash


# --- on the model that comes with the package ---


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    store = tmp_path_factory.mktemp("bench") / "results.sqlite"
    return Workbench.open(
        load_config(["task=menagerie", f"store={store}", "search.calibration=2", "engine.device=cpu"])
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("search", "priced"),
    [
        (lambda bench: bench.best_budget("adaskip"), ["scale"]),
        (lambda bench: bench.best_budget("replaceme"), []),  # its maps are in the weights
        (lambda bench: bench.search(SearchConfig(calibration=2, max_budget=1, compensation="auto")), []),  # greedy
    ],
)
def test_a_search_prices_the_stand_ins_of_the_plans_that_it_tries(bench, monkeypatch, search, priced):
    measured = []

    def measure(engine, form):
        measured.append(form)
        return StandInCosts((0.0, 0.0), (0.0, 0.0))

    monkeypatch.setattr("litestage.session.session.measure_stand_in", measure)
    search(replace(bench, config=replace(bench.config, search=replace(bench.config.search, max_budget=2))))
    assert measured == priced


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "full"])
def test_every_method_answers_alike_together_and_one_at_a_time(bench, method):
    questions = bench.task.questions("test")[:2]
    plan = bench.session.plan(f"{method}:2", bench.task, bench.pipeline)
    assert {len(stage.skip_sets[-1]) for stage in plan.stages.values()} == {2}
    contestant = bench.session.contestant(bench.pipeline, plan)
    together, alone = contestant.answer(questions), contestant.answer(questions, timed=True)
    for one, other in zip(together, alone, strict=True):
        assert [stage.texts for stage in one.stages] == [stage.texts for stage in other.stages]
        assert all(stage.decode_s > 0 for stage in other.stages)
        assert one.plan == plan.hash


def test_the_results_say_what_a_schedule_really_left_out(session):
    plan = session.plan("skipdecode:4", Task(), PIPELINE)
    questions = some_questions(2)
    traces = session.run(questions, {"skipdecode": plan}, PIPELINE)["skipdecode"]
    recall = summarise({"full": Measured(plan, traces, ())})[0]["stages"]["recall"]
    # tokens 1 to n - 1 are run; the first layer goes from the 5th on (the second from the 8th, which is never run)
    run = [token for trace in traces for count in trace.stages[0].tokens for token in range(1, count)]
    assert recall["skipped"]["mhsa"] == recall["skipped"]["ffn"] == round(sum(t >= 5 for t in run) / len(run), 2) > 0
