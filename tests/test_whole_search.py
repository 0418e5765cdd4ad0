"""The pareto search as a command runs it, with everything on; best budgets and variants beside it."""

import json

import pytest

from litestage.comparison.compare import compare
from litestage.config import load_config, variant
from litestage.errors import LiteStageError
from litestage.plan import load_plan
from litestage.profile import StandInCosts, StepCosts
from litestage.search.record import FRONTIER, best_within, write_search
from litestage.session import Session
from litestage.session.workbench import Workbench

SMALL = (
    "search.calibration=24",
    "search.confirm=8",
    "search.max_budget=6",
    "search.max_accuracy_drop=0.3",
    "search.timed_questions=2",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"store={tmp_path_factory.mktemp('store') / 'store.sqlite'}"


FREE_STAND_INS = StepCosts(
    12, (1e-3, 0, 2e-4, 0, 0, 3e-4, 0), (1e-3, 0, 2e-4, 0, 0, 3e-4, 0), 0.0, {"block": StandInCosts((0, 0), (0, 0))}
)
"""Written down, so that the choice does not hang on this machine's clock."""


@pytest.mark.slow
def test_it_chooses_compensation_with_the_skip_sets_and_leaves_plans_that_load(tmp_path, store, monkeypatch):
    monkeypatch.setattr(Session, "step_costs", lambda self, forms=(): FREE_STAND_INS)
    options = [*SMALL, store, "search.strategy=pareto", "search.compensation=block", "search.finalists=2"]
    bench = Workbench.open(load_config(options))
    found = bench.search()
    assert found.met
    assert found.chosen.latency_s < found.full.latency_s
    assert found.chosen.accuracy_drop <= found.chosen.accuracy_drop_upper <= 0.3
    timed = [candidate for candidate in found.candidates if candidate.measured_s]
    assert 1 <= len(timed) <= 2
    assert found.chosen.plan in {candidate.plan for candidate in timed}
    assert any(form == "block" for candidate in found.candidates for form in candidate.compensation.values())
    write_search(found, tmp_path)
    assert load_plan(tmp_path / "plan.yaml").hash == found.plan.hash
    record = json.loads((tmp_path / "search.json").read_text())
    for entry in record["frontier"]:
        if entry["plan"] in found.plans:
            assert load_plan(tmp_path / FRONTIER / f"{entry['plan']}.yaml").hash == entry["plan"]
    path, entry = best_within(tmp_path, 0.3)
    assert entry["latency_s"] <= found.chosen.latency_s
    assert load_plan(path).hash == entry["plan"]


@pytest.mark.slow
def test_a_baseline_is_compared_at_its_best_budget_and_a_variant_beside_it(store):
    options = [
        *SMALL,
        store,
        "questions=6",
        "latency_questions=0",
        "methods=[cosine:best,shortgpt:best,paper,paper+exit]",
        "variants.paper.strategy=greedy",
        "variants.paper.calibration=16",
    ]
    found = compare(Workbench.open(load_config(options)))
    assert list(found.plans) == ["full", "cosine", "shortgpt", "paper", "paper+exit"]
    assert set(found.searches) == {"cosine", "shortgpt", "paper", "paper+exit"}
    cosine = found.searches["cosine"]
    passed = [c for c in cosine.candidates if c.verdict.startswith(("certified", "chosen"))]
    assert cosine.chosen.latency_s == min(c.latency_s for c in [*passed, cosine.full])
    assert {len(stage.skip) % 2 for stage in found.plans["shortgpt"].stages.values()} == {0}  # whole layers only
    assert found.searches["paper"].chosen.questions == 8
    assert all(stage.exit for stage in found.plans["paper+exit"].stages.values())
    notes = {method["name"]: method.get("note", "") for method in found.results["methods"]}
    assert "skips" in notes["paper"] or "full depth" in notes["paper"]


def test_a_method_at_several_budgets_is_reported_at_each(store):
    methods = "methods=[cosine:2,cosine:4,cosine:4+exit,uniform:2,random:2:1,random:2:2]"
    options = [store, "questions=6", "latency_questions=0", "search.calibration=8", methods]
    found = compare(Workbench.open(load_config(options)))
    assert list(found.plans) == ["full", "cosine:2", "cosine:4", "cosine:4+exit", "uniform", "random:2:1", "random:2:2"]
    assert [len(found.plans[f"cosine:{budget}"]["recall"].skip) for budget in (2, 4)] == [2, 4]
    assert found.plans["random:2:1"].hash != found.plans["random:2:2"].hash
    at = {entry["name"]: (entry.get("method"), entry.get("budget")) for entry in found.results["methods"]}
    assert at["cosine:2"] == ("cosine", 2)
    assert at["cosine:4+exit"] == ("cosine+exit", 4)
    assert at["full"] == (None, None)


def test_two_files_of_one_name_are_not_silently_made_one(store, tmp_path):
    bench = Workbench.open(load_config([store, "methods=[a/mine.yaml,b/mine.yaml]"]))
    with pytest.raises(LiteStageError, match=r"'a/mine.yaml' and 'b/mine.yaml'.*'mine'"):
        compare(bench)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["variants.mine.strategi=greedy"], ["variants.mine", "strategi"]),
        (["variants.mine.strategy=gredy"], ["variants.mine.strategy", "gredy", "greedy"]),
        (["variants.mine.calibration=0"], ["variants.mine.calibration", "0"]),
        (["search.compensation=linar"], ["search.compensation", "linar", "block"]),
        (["search.finalists=-1"], ["search.finalists", "-1"]),
        (["search.against=exit", "search.exit=true"], ["search.against", "'exit'", "full+exit"]),
        (["search.against=full+exit"], ["search.against", "search.exit=true"]),
    ],
)
def test_a_search_that_makes_no_sense_is_told_before_anything_is_loaded(options, named):
    with pytest.raises(LiteStageError) as error:
        load_config(options)
    assert all(word in str(error.value) for word in named)


def test_a_variant_changes_what_it_names_and_nothing_else():
    config = load_config(["search.calibration=99", "variants.mine.strategy=pareto"])
    assert variant(config, "mine").strategy == "pareto"
    assert variant(config, "mine").calibration == 99
    assert config.search.strategy == "greedy"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["greedy", "pareto", "one_budget"])
def test_a_search_in_decode_only_finds_plans_whose_stages_share_their_prompts(store, strategy, tmp_path):
    options = [*SMALL, store, f"search.strategy={strategy}", "search.phase=decode"]
    found = Workbench.open(load_config(options)).search()
    skipping = [stage for stage in found.plan.stages.values() if len(stage.skip)]
    assert skipping
    assert all(stage.phase == "decode" for stage in skipping)
    assert found.plan.prefix_cache
    write_search(found, tmp_path)
    kept = load_plan(tmp_path / "plan.yaml")
    assert kept.prefix_cache
    assert kept.certificate == found.plan.certificate is not None
