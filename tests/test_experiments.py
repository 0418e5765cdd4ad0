"""Experiments: one command each, with rows, a plot and sentences that say what the rows say."""

import json
from functools import partial
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from tiny import random_prompts, tiny_engine

from litestage.engine import Decoding
from litestage.errors import LiteStageError
from litestage.experiment import EXPERIMENTS
from litestage.experiment.drawn import RULES, Table, choose
from litestage.experiment.factorial import effects_of
from litestage.experiment.heuristics import at_its_latency
from litestage.experiment.importance import rank_correlation
from litestage.experiment.loops import loops
from litestage.experiment.noise import violation_interval
from litestage.experiment.random_weights import chain
from litestage.experiment.refresh import Writer
from litestage.experiment.scale import exponent
from litestage.experiment.sensitivity import first_certain_loss, what_stages_bear
from litestage.experiment.threshold import what_rules_do
from litestage.plan import SkipSet, StagePlan
from litestage.report import read_run
from litestage.stages import Question
from litestage.stats.proportion import share_of_texts
from litestage.store import ResultStore, ReusingEngine

SMALL = {
    "sensitivity": ["rankings=[cosine,fidelity]", "search.max_budget=4", "step=4"],
    "threshold": ["plans=[cosine:6]", "thresholds=[0.5,0.9]", "windows=[3]"],
    "adaptive-exit": ["plans=[cosine:6]", "search.confirm=4", "search.max_accuracy_drop=0.5"],
    "heuristics": ["policies=[every-4th,random]", "seeds=1", "step=12", "search.max_budget=2"],
    "certificate": ["searches=200", "sizes=[80]", "share=0.5", "bounds=[0.1]"],
    "noise": ["repeats=2", "search.max_budget=2", "fresh=6", "uncertified=1"],
    "search-cost": ["latency_questions=2", "search.max_budget=2"],
    "importance": ["tokens=400"],
    "loops": ["budgets=[12]", "tokens=400"],
    "calibration": ["rankings=[own/outputs,gold/fidelity,plain/perplexity,accuracy]", "budgets=[1]", "tokens=400"],
    "scale": [
        *("depths=[1,2,3]", "stages=[1,2,3]", "cost_questions=1", "stage_tokens=2"),
        *("models=[]", "pipelines=[]", "searches=[greedy]", "search.max_budget=2"),
    ],
    "deep": ["budgets=[4]", "tokens=12", "every=[4]", "below=[0.5]"],
    "factorial": [
        "form=scale",
        "latency_questions=1",
        "tokens=400",
        "search.max_budget=2",
        "search.max_accuracy_drop=1",
    ],
    "protocol": ["candidates=3", "sizes=[4]", "splits=20", "tokens=400", "search.max_budget=6"],
    "transfer": ["others=[menagerie_five,menagerie@menagerie_two_stage]", "search.max_budget=2"],
}
ELSEWHERE = {"protocol": ("test and calibration", 12), "certificate": ("simulated", 80), "noise": ("fresh", 6)}
"""Split and number of questions of those that do not ask six of the test split."""
HEAD = {"schema", "experiment", "command", "task", "split", "n", "environment", "config", "rows", "shows"}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("experiments") / "store.sqlite"


@pytest.fixture
def litestage(litestage):
    """Runs ``litestage experiment`` in this process: exit code, standard output, standard error."""
    return partial(litestage, "experiment")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_leaves_rows_a_plot_and_what_they_show(litestage, tmp_path, store, name):
    options = [*SMALL[name], "questions=6", "search.calibration=8", "search.strategy=greedy", f"store={store}"]
    code, out, err = litestage(name, *options, "output=here", "--json")
    assert code == 0, err
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert json.loads(out.strip().splitlines()[-1]) == results
    assert results["schema"] == "litestage.experiment/1"
    assert set(results) >= HEAD
    assert (results["split"], results["n"]) == ELSEWHERE.get(name, ("test", 6))
    assert results["config"]["questions"] == 6
    for row in results["rows"] if name not in ("certificate", "noise") else ():
        figures = [name.removesuffix("_ci95") for name in row if name.endswith("_ci95")]
        assert figures or row["of"] in ("depth", "stages")  # a search on random weights is counted, not scored
        for figure in figures:
            low, high = row[f"{figure}_ci95"]
            assert low <= row[figure] <= high, figure
        if "predicted_latency_s" in row:
            assert sum(stage["predicted_latency_s"] for stage in row["stages"].values()) == pytest.approx(
                row["predicted_latency_s"]
            )
    assert len(results["shows"]) == 2
    for sentence in results["shows"]:
        assert sentence in out
    assert "<svg" in (tmp_path / "here" / "plot.svg").read_text()
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["questions"] == 6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["sensitivty"], ["sensitivty", "'sensitivity'"]),
        (["threshold", "treshold=0.4"], ["treshold", "'thresholds'"]),
        (["threshold", "windows=[]"], ["windows"]),
        (["threshold", "plans=[full+exit]"], ["full+exit"]),
        (["sensitivity", "rankings=[cosin]"], ["cosin", "'cosine'"]),
        (["sensitivity", "step=0"], ["step", "0"]),
        (["heuristics", "policies=[unifrm]"], ["unifrm", "'uniform'"]),
        (["importance", "tokens=0"], ["tokens", "0"]),
        (["transfer", "others=[]"], ["others"]),
        (["transfer", "others=[menagerie]"], ["'menagerie'"]),
        (["transfer", "others=[menagerie@sngle]"], ["sngle", "'single'"]),
        (["loops", "budgets=[25]"], ["25", "24"]),
        (["loops", "rankings=[cosin]"], ["cosin", "'cosine'"]),
        (["loops", "rankings=[uniform]", "budgets=[1,3]"], ["'uniform'", "even"]),
        (["protocol", "sizes=[1]"], ["sizes", "1"]),
        (["protocol", "search.calibration=512"], ["512"]),
        (["calibration", "rankings=[own/outputz]"], ["own/outputz", "'own/outputs'"]),
        (["calibration", "budgets=[25]"], ["25", "24"]),
        (["calibration", "gold=none.jsonl"], ["none.jsonl"]),
        (["calibration", "plain=none.txt", "rankings=[plain/fidelity]"], ["none.txt"]),
        (["calibration", "task=menagerie_five", "pipeline=single", "rankings=[gold/fidelity]"], ["'answer'"]),
        (["scale", "depths=[3,6]"], ["depths", "three"]),
        (["scale", "searches=[gready]"], ["gready", "'greedy'"]),
        (["deep", "stage=analyse"], ["analyse", "'analyze'"]),
        (["deep", "below=[1.5]"], ["1.5"]),
        (["deep", "every=[0]"], ["every", "0"]),
        (["factorial", "form=blok"], ["blok", "block"]),
        (["noise", "repeats=1"], ["repeats", "1"]),
        (["noise", "search.calibration=512"], ["512"]),
        (["noise", "fresh=0"], ["fresh", "0"]),
        (["noise", "fresh=1000000"], ["110488", "1000000"]),
        (["certificate", "searches=0"], ["searches", "0"]),
        (["certificate", "sizes=[]"], ["sizes"]),
        (["certificate", "share=1"], ["share", "1"]),
        (["certificate", "sizes=[0]"], ["sizes", "0"]),
        (["certificate", "bounds=[0.5]"], ["bounds", "0.5", "0.18"]),
        (["certificate", "bounds=[nan]"], ["bounds", "nan"]),
        (["certificate", "bounds=[0.001]", "sizes=[80]"], ["bounds", "0.001", "80"]),
        (["search-cost", "searches=[gready]"], ["gready", "'greedy'"]),
        (["search-cost", "latency_questions=0"], ["latency_questions", "0"]),
        (["adaptive-exit", "plans=[full+exit+prefix]"], ["full+exit+prefix"]),
        (["adaptive-exit", "rules=[entropi]"], ["entropi", "'entropy'"]),
        (["adaptive-exit", "plans=[full+exit]"], ["+exit"]),
    ],
)
def test_a_wrong_option_is_named(litestage, store, arguments, named):
    code, out, err = litestage(*arguments, f"store={store}")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1), err
    for name in named:
        assert name in err


def test_simulated_searches_say_how_often_the_bound_broke_and_what_is_stated(litestage, tmp_path, store):
    code, _, err = litestage("certificate", *SMALL["certificate"], f"store={store}", "output=here")
    assert code == 0, err
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert results["stated_rate"] == pytest.approx(0.1)
    assert len(results["rows"]) == 14
    for row in results["rows"]:
        low, high = row["broken_rate_ci95"]
        assert low <= row["broken_rate"] == row["broken"] / 200 <= high
        assert row["mean_speedup"] >= 1
    edge = results["p_values"][0]["passed_at_the_bound_at_worst"]
    assert edge["exact"] < 0.105
    assert read_run(tmp_path / "here").experiment == results


@pytest.mark.slow
def test_repeated_searches_go_on_where_they_were_stopped_and_measure_true_drops(
    litestage, tmp_path, store, monkeypatch
):
    from litestage.experiment import noise

    options = [*SMALL["noise"], "search.calibration=8", "search.strategy=greedy", f"store={store}", "output=here"]
    measured, real = [], noise._measured

    def counted(bench, search, trials):
        if len(measured) == 2:
            raise LiteStageError("stopped here")
        measured.append((bench.task.seed, search.confirm))
        return real(bench, search, trials)

    monkeypatch.setattr(noise, "_measured", counted)
    assert litestage("noise", *options)[0] == 2
    assert measured == [(1, None), (1, 0)]
    monkeypatch.setattr(
        noise, "_measured", lambda *given: measured.append((given[0].task.seed, given[1].confirm)) or real(*given)
    )
    code, _, err = litestage("noise", *options)
    assert code == 0, err
    assert measured == [(1, None), (1, 0), (2, None)]
    results = json.loads((tmp_path / "here" / "results.json").read_text())
    assert results["stated_rate"] == pytest.approx(0.1)
    assert [row["repeat"] for row in results["rows"]] == [0, 1]
    for row in results["rows"]:
        low, high = row["true_drop_ci95"]
        assert low <= row["true_drop"] <= high
        assert row["breaks_bound"] == (row["true_drop"] > 0.02)
    assert "uncertified" in results["rows"][0]
    assert "uncertified" not in results["rows"][1]


def row(**given):
    measured = {"accuracy_drop": 0.0, "accuracy_drop_ci95": [-0.02, 0.02], "predicted_latency_s": 1.0}
    faster = {"predicted_speedup": 1.0, "predicted_speedup_ci95": [1.0, 1.0]}
    return {"accuracy": 1.0, **measured, **faster, "stages": {"recall": {"cut": 0.0}}, **given}


def test_a_stage_loses_measurably_where_the_interval_leaves_zero():
    rows = [
        row(
            ranking="cosine",
            stage=stage,
            budget=budget,
            accuracy_drop=drop,
            accuracy_drop_ci95=[drop - 0.03, drop + 0.03],
        )
        for stage, drops in {"recall": [0, 0.01, 0.02], "analyze": [0, 0.04, 0.5]}.items()
        for budget, drop in zip((0, 2, 4), drops, strict=True)
    ]
    assert first_certain_loss(rows[:3]) is None
    assert first_certain_loss(rows[3:])["budget"] == 2
    assert what_stages_bear(rows, "cosine", 24) == (
        "Of 24 sub-layers skipped in one stage only, by cosine: analyze loses measurably from 2 on, "
        "4.0 points (95 % interval 1.0 to 7.0); recall does not measurably lose up to 4."
    )


def test_the_fastest_rule_that_surely_keeps_the_bound_is_named():
    def cut(threshold, drop, speedup):
        against = {"accuracy_drop": drop, "accuracy_drop_ci95": [drop - 0.01, drop + 0.01]}
        against |= {"predicted_speedup": speedup, "predicted_speedup_ci95": [speedup - 0.1, speedup + 0.1]}
        stages = {"recall": {"cut": 0.5}}
        return row(of="full", threshold=threshold, window=5, stages=stages, against_uncut=against)

    rows = [row(of="full", threshold=None, window=None), cut(0.4, 0.0, 1.2), cut(0.5, 0.005, 1.3), cut(0.6, 0.2, 2.0)]
    assert "threshold 0.5 with window 5 is the fastest that surely loses at most 2.0 points" in what_rules_do(
        rows, "full", 0.02
    )
    assert "threshold 0.6 with window 5 loses most against it, 20.0 points" in what_rules_do(rows, "full", 0.02)
    assert "none is measurably faster" in what_rules_do(rows[:1] + rows[3:], "full", 0.02)


def test_at_its_latency_means_at_least_as_fast_and_then_most_accurate():
    def at(policy, seconds, accuracy):
        return row(policy=policy, predicted_latency_s=seconds, accuracy=accuracy)

    others = [at("a", 1.1, 1.0), at("a", 0.9, 0.5), at("a", 0.5, 0.7), at("b", 1.2, 0.9)]
    assert [(found["policy"], found["accuracy"]) for found in at_its_latency(at("", 1.0, 1.0), others)] == [("a", 0.7)]


def test_the_violation_rates_interval_is_wilsons():
    rows = [{"breaks_bound": broken} for broken in [True] * 2 + [False] * 8]
    assert violation_interval(rows) == pytest.approx((0.0567, 0.5098), abs=1e-4)


def test_a_score_that_orders_the_damage_correlates_with_it_and_one_that_does_not_has_an_interval_around_0():
    generator, questions = np.random.default_rng(0), 400
    shares = np.linspace(0, 0.9, 16)
    hits = (generator.random((16, questions)) < shares[:, None]).astype(int).tolist()
    whole = np.ones((16, questions), dtype=int).tolist()
    rho, (low, high) = rank_correlation(shares.tolist(), hits, whole)
    assert rho > 0.95
    assert 0.8 < low <= rho <= high <= 1
    rho, (low, high) = rank_correlation(generator.permutation(shares).tolist(), hits, whole)
    assert low < 0 < high
    assert abs(rho) < 0.6
    assert rank_correlation([1.0, 2.0], [[0, 1], [1, 0]], [[1, 1], [1, 1]]) == (None, None)


def test_a_share_of_texts_is_drawn_by_question():
    alone, (low, high) = share_of_texts([1, 0] * 50, [1] * 100)
    together, (lower, higher) = share_of_texts([4, 0] * 50, [4] * 100)  # four texts of a question always alike
    assert alone == together == 0.5
    assert (low, high) == pytest.approx((lower, higher), abs=0.02)
    share, (low, high) = share_of_texts([0] * 30, [4] * 30)
    assert share == low == 0
    assert high == pytest.approx(0.1135, abs=1e-3)  # Wilson's of 0 in 30


@pytest.mark.parametrize(
    ("tokens", "stop", "looping"),
    [
        ([9, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4], "length", True),
        ([9, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3], "length", False),  # not yet three times
        ([1, 2, 3, 4] * 3, "eos", False),  # it came to an end
        ([5] * 12, "length", True),
        ([5] * 11, "length", False),
        ([1, 2, 3, 1, 2, 3] * 3, "length", True),  # three tokens, six times
        ([1, 2, 3] * 3 + [4], "length", False),
        ([1, 2, 3, 4, 5] * 3 + [1, 2], "length", True),  # the limit fell within the fourth
        ([], "length", False),
    ],
)
def test_a_text_loops_where_its_end_stands_three_times_in_a_row_at_the_limit(tokens, stop, looping):
    assert loops(tokens, stop) is looping


def test_a_plan_chosen_on_the_questions_it_is_reported_on_looks_better_than_it_is():
    """Forty candidates of the same true drop, on the bound: whichever passes, passed by luck."""
    generator, questions = np.random.default_rng(0), 4000
    lost = np.zeros((41, questions), dtype=int)
    for candidate in range(1, 41):
        lost[candidate, generator.choice(questions, 160, replace=False)] = 1
    passes = np.repeat(np.array([100, *range(60, 20, -1)], dtype=float)[:, None], questions, axis=1)
    found = choose(Table(lost, passes), 100, 0.039, "drop", 500)
    assert found["test"]["true_drop"] == found["calibration"]["true_drop"] == pytest.approx(0.04)
    assert found["test"]["reported_drop"] <= 0.039
    assert found["test"]["optimism"] > 0.01
    assert abs(found["calibration"]["optimism"]) < 0.003
    assert found["test"]["breaks_bound"] == found["calibration"]["breaks_bound"] == 1
    few = Table(lost[:4], passes[:4])
    seen, limit = (choose(few, 100, 0.039, rule, 500)["calibration"]["breaks_bound"] for rule in RULES)
    assert limit < 0.4 < 0.7 < seen


def test_an_exponent_is_the_slope_through_the_logarithms():
    value, (low, high) = exponent([1, 2, 4, 8], [3, 12, 48, 192])
    assert value == pytest.approx(2)
    assert (low, high) == pytest.approx((2, 2))
    value, (low, high) = exponent([1, 2, 4, 8], [3, 14, 45, 200])
    assert low < value < high
    assert low < 2 < high


def test_a_chain_reads_all_that_was_written_before():
    (prompt,) = (
        chain(3, 8).stages[2].prompts(Question("q", "Why?", ("this", "that")), {"step_1": "one.", "step_2": "two."})
    )
    assert str(prompt) == "Why?\n(A) this (B) that\nStep 1: one.\nStep 2: two.\nStep 3:"


def test_a_text_that_is_refreshed_at_every_token_is_full_depths():
    engine = tiny_engine("llama")
    session = SimpleNamespace(reusing=ReusingEngine(engine, "tiny", ResultStore()), batch_size=2)
    writer, prompts = Writer(session, 12, Decoding()), random_prompts([9, 14, 5])
    full = [text.tokens for text in writer.write(prompts, StagePlan())]
    skipping = StagePlan(skip=SkipSet(mhsa=(1, 2), ffn=(2,)))
    assert [text.tokens for text in writer.write(prompts, skipping)] != full
    assert [text.tokens for text in writer.write(prompts, skipping, every=1)] == full
    assert [text.tokens for text in writer.write(prompts, skipping, below=1.0)] == full  # never sure
    for every, below in ((5, None), (None, 0.3), (5, 0.3)):
        texts = writer.write(prompts, StagePlan(), every, below)
        assert [text.tokens for text in texts] == full
        assert all(text.refreshes[0] == 0 for text in texts)
    session.engine = engine
    texts, guessed, accepted = writer.speculate(prompts, skipping.skip, 3)
    assert [text.tokens for text in texts] == full
    assert 0 <= accepted <= guessed
    assert [text.refreshes for text in writer.write(prompts[:1], StagePlan(), every=5)] == [(0, 5, 10)]


def test_an_effect_is_taken_over_all_levels_of_the_other_factors():
    speed = {"skip": 2.0, "exit": 1.1, "budgets": 1.2, "compensation": 0.9, "draft": 1.3}
    loss = {"skip": 0.2, "exit": 0.05, "budgets": -0.1, "compensation": -0.05, "draft": 0}
    correct, seconds = {}, {}
    for levels in [
        *(("off", exit, "", "", draft) for exit, draft in product(("off", "on"), repeat=2)),
        *product(["on"], ("off", "on"), ("global", "by stage"), ("none", "fitted"), ("off", "on")),
    ]:
        on = [name for name, level in zip(speed, levels, strict=True) if level in ("on", "by stage", "fitted")]
        right = round(1000 * (1 - sum(loss[name] for name in on) - 0.1 * (levels[2] == "global")))
        correct[levels] = np.arange(1000) < right
        seconds[levels] = np.full(1000, 1 / np.prod([speed[name] for name in on]))
    found = {effect["factor"]: effect for effect in effects_of(correct, seconds)}
    assert found["exit"]["speedup"] == pytest.approx(1.1)
    assert found["budgets"]["speedup"] == pytest.approx(1.2)
    assert found["compensation"]["speedup"] == pytest.approx(0.9)
    assert found["skip"]["speedup"] == pytest.approx(2 * 1.2**0.5)  # budgets by stage in half of the pairs
    assert found["exit"]["accuracy_gained"] == pytest.approx(-0.05)
    assert found["exit, where nothing is skipped"]["pairs"] == 2
    assert found["exit, where sub-layers are skipped"]["pairs"] == 8
    assert found["draft"]["speedup"] == pytest.approx(1.3)
    assert found["draft"]["accuracy_gained"] == 0
