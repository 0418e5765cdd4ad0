"""The guarantee: the test's level, the walk from safe to fast, what the plan's file carries, and what is said of it."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy.stats import binom
from test_racing import WrittenDown, problem, same

from litestage.errors import LiteStageError
from litestage.experiment.tables import simulate, tables
from litestage.plan import Certificate, Plan, SkipSet, StagePlan, load_plan, save_plan
from litestage.plan.words import certified
from litestage.report.answer import answer, in_two_sentences
from litestage.report.runs import Run
from litestage.search import find_strategy
from litestage.search.certify import walk, walk_order
from litestage.search.enough import confirming, fewest_calibrating
from litestage.search.one_budget import one_budget_search
from litestage.search.record import write_search
from litestage.stats import Bound, Pairs

# --- the test -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "most"), [(114, 0.02), (230, 0.01), (22, 0.1), (7, 0.3)])
def test_with_nothing_lost_the_p_value_is_that_of_nothing_lost_at_the_bound(n, most):
    assert Bound(most).p_value(Pairs(0, 0, n)) == pytest.approx((1 - most) ** n, rel=2e-3)


@pytest.mark.parametrize(("most", "confidence", "n"), [(0.02, 0.9, 114), (0.01, 0.9, 230), (0.02, 0.95, 149)])
def test_the_fewest_questions_pass_with_nothing_lost_and_one_fewer_do_not(most, confidence, n):
    bound = Bound(most, confidence)
    assert bound.fewest == n
    assert bound.passes(Pairs(0, 0, n))
    assert not bound.passes(Pairs(0, 0, n - 1))


@pytest.mark.parametrize("on", ["accuracy", "agreement"])
@pytest.mark.parametrize(("most", "n", "enough"), [(0.02, 204, 194), (0.02, 193, 114), (0.02, 113, 113), (0.1, 64, 52)])
def test_enough_questions_are_the_fewest_of_which_as_many_may_be_lost(most, n, enough, on):
    bound = Bound(most, on=on)
    assert bound.enough(n) == enough
    lost = bound.most_lost(n)[0]
    assert bound.most_lost(enough)[0] == lost
    assert bound.most_lost(enough - 1)[0] < max(lost, 0) or lost < 0


@pytest.mark.parametrize("most", [0.0, 0.02, 0.1])
def test_the_fewest_calibration_questions_leave_enough_to_certify_and_one_fewer_do_not(most):
    bound = Bound(most)
    questions = fewest_calibrating(bound)
    if most == 0:
        assert questions is None
        return
    assert questions > confirming(questions, bound) == bound.fewest
    assert confirming(questions - 1, bound) < bound.fewest


def test_no_number_of_questions_certifies_a_bound_of_nothing():
    assert Bound(0.0).fewest is None
    assert not Bound(0.0).passes(Pairs(0, 0, 10_000))


@pytest.mark.parametrize(("n", "most"), [(25, 0.1), (60, 0.05)])
def test_its_level_is_exact_whatever_is_gained(n, most):
    """Every outcome that passes, added up by its probability at the edge of the hypothesis, for many shares gained."""
    bound = Bound(most)
    passing = [
        (lost, gained)
        for lost in range(n + 1)
        for gained in range(n + 1 - lost)
        if bound.passes(Pairs(lost, gained, n))
    ]
    lost, gained = np.array(passing).T
    chances = [
        float((binom.pmf(gained, n, b) * binom.pmf(lost, n - gained, min(1.0, (b + most) / (1 - b)))).sum())
        for b in [*np.linspace(0, 0.2, 81), 0.3, 0.4]
    ]
    assert max(chances) <= 0.1 + 1e-4
    assert max(chances) > 0.07  # and hardly more careful than it must be
    region = bound.most_lost(n)
    assert all(lost <= region[gained] for lost, gained in passing)
    assert sum(int(most) + 1 for most in region) >= len(passing)


def test_the_test_sees_more_lost_as_worse_and_more_gained_as_better():
    bound = Bound(0.05)
    by_lost = [bound.p_value(Pairs(lost, 3, 100)) for lost in range(8)]
    by_gained = [bound.p_value(Pairs(4, gained, 100)) for gained in range(8)]
    assert by_lost == sorted(by_lost)
    assert by_gained == sorted(by_gained, reverse=True)


def test_on_agreement_it_is_a_binomial_test_of_the_answers_that_differ():
    bound = Bound(0.02, on="agreement")
    assert bound.p_value(Pairs(2, 0, 300)) == pytest.approx(binom.cdf(2, 300, 0.02))
    assert bound.most_lost(300)[0] == max(k for k in range(20) if binom.cdf(k, 300, 0.02) <= 0.1)


# --- the walk -------------------------------------------------------------------------------------------------------


def test_the_walk_goes_from_safe_to_fast_and_leaves_out_what_is_beaten_or_saves_little():
    seconds = [0.95, 0.7, 0.65, 0.648, 0.6, 0.5, 0.45]
    changed = [0, 1, 5, 4, 1, 3, 3]
    # 0.95 saves too little of the 0.55 there is to save; 0.65 and 0.648 change more than the faster 0.6
    assert walk_order(seconds, changed, 1.0) == [1, 4, 5, 6]
    assert walk_order([0.5, 0.502], [3, 2], 1.0) == [1]  # equally fast: the one that changes less
    assert walk_order([], [], 1.0) == []


def test_a_plan_inside_a_faster_one_that_was_luckier_is_walked_before_it():
    """On the search's questions the faster one changed nothing and the slower, which skips less, two answers."""
    inside = [[True, True], [False, True]]
    assert walk_order([0.7, 0.6], [2, 0], 1.0, inside) == [0, 1]
    assert walk_order([0.7, 0.6], [2, 0], 1.0) == [1]
    slow, fast = {50}, set(range(60, 90))  # of which the search sees 0 to 59
    found = one_budget_search(walked_problem(WrittenDown({0: set(), 3: slow, 6: fast}), rungs=3))
    assert [step.passed for step in found.walk.steps] == [True, False]
    assert found.chosen.budgets == same(1)


def test_a_plan_that_changes_little_is_walked_before_a_lucky_one_that_changes_much():
    """The loud one seems to gain what it loses; on the confirming questions it only loses."""
    own = set(range(50, 56))  # what full depth gets wrong
    session = WrittenDown({0: own, 3: own | {0}, 6: {*range(5), *range(60, 90)}})
    found = one_budget_search(walked_problem(session, rungs=3))
    assert [step.passed for step in found.walk.steps] == [True, False]
    assert found.chosen.budgets == same(1)


@pytest.mark.parametrize("at", range(14))
def test_the_bound_breaks_no_more_often_than_stated(at):
    """All tables at a size where certificates are to be had: within three standard errors of the level."""
    found = simulate(tables(0.1)[at], Bound(0.1), 60, 60, 2000, np.random.default_rng(at))
    assert found.broken.mean() < 0.1 + 3 * np.sqrt(0.09 / 2000)
    if "rise" in tables(0.1)[at].name:
        assert found.speedup.mean() > 1.4  # and it is of some use


def walked_problem(session, bound=0.1, questions=60, confirm=60, **options):
    session.loaded = SimpleNamespace(fingerprint="f1")
    case = problem(session, questions=questions + confirm, bound=bound, task="mine", **options)
    case.questions, case.confirm = case.questions[:questions], case.questions[questions:]
    return case


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.setattr("litestage.search.problem.SearchProblem.provenance", lambda self, *_: {})


def test_the_plan_chosen_is_the_fastest_certified_not_the_one_that_was_lucky():
    wrong = {3: set(), 6: {61}, 9: set(range(60, 90))}  # 9 loses none of the search's questions, half of the others
    found = one_budget_search(walked_problem(WrittenDown(wrong)))
    assert found.met
    assert found.chosen.budgets == same(2)
    assert found.plan.certificate == Certificate(
        plan=found.plan.hash,
        model="f1",
        pipeline=found.plan.certificate.pipeline,
        bound=0.1,
        on="accuracy",
        confidence=0.9,
        against="full",
        task="mine",
        questions=60,
        lost=1,
        gained=0,
        p=found.plan.certificate.p,
    )
    assert found.plan.certificate.p == Bound(0.1).p_value(Pairs(1, 0, 60)) <= 0.1
    verdicts = {candidate.budgets["recall"]: candidate.verdict for candidate in found.candidates}
    assert verdicts[2] == "chosen"
    assert verdicts[3].startswith("not certified: ")
    without = one_budget_search(walked_problem(WrittenDown(wrong), confirm=0))
    assert without.chosen.budgets == same(3)
    assert without.plan.certificate is None


def test_questions_that_certify_are_asked_of_nothing_before_the_walk():
    session = WrittenDown({6: set(range(60))})
    case = walked_problem(session)
    case.full()
    for rung in (1, 2, 3):
        case.race(same(rung))
    assert {int(name) for _, name in session.asked} == set(range(60))
    one_budget_search(case)
    assert max(int(name) for _, name in session.asked) == 119


def test_a_candidate_that_cannot_pass_any_more_is_asked_no_further():
    session = WrittenDown({3: set(range(100, 150)), 6: set()})
    case = walked_problem(session, questions=100, confirm=300)
    full = case.full()
    walked = walk(case, [case.evaluate(same(1))], full)
    assert [step.passed for step in walked.steps] == [False]
    assert walked.steps[0].asked == 48
    assert not walked.certificates


def test_what_full_depth_gets_wrong_may_still_be_won_so_nothing_ends_too_early():
    """Lost at first, made up for later: the outcome is that of asking everything."""
    own, lost = set(range(200, 260)), set(range(100, 120))
    session = WrittenDown({0: own, 3: lost})
    case = walked_problem(session, questions=100, confirm=300)
    walked = walk(case, [case.evaluate(same(1))], case.full())
    assert [(step.asked, step.lost, step.gained, step.passed) for step in walked.steps] == [(300, 20, 60, True)]


def test_nothing_certified_is_full_depth():
    session = WrittenDown({skipped: set(range(60, 90)) for skipped in (3, 6, 9)})
    found = one_budget_search(walked_problem(session))
    assert not found.met
    assert found.plan.certificate is None
    assert found.chosen.budgets == same(0)
    assert found.walk.steps[0].lost == 30 or found.walk.steps[0].asked < 60


@pytest.mark.parametrize("strategy", ["one_budget", "greedy"])
def test_too_few_questions_for_a_bound_are_said_to_be_too_few_with_how_many_it_takes(caplog, strategy):
    session = WrittenDown({})
    found = find_strategy(strategy).run(walked_problem(session, bound=0.02, questions=70, confirm=60))
    assert not found.met
    assert found.plan.certificate is None
    assert "takes 114 confirming questions" in caplog.text
    assert "there are 60" in caplog.text
    assert "search.calibration to 143 or more, of which 114 confirm" in caplog.text
    assert max(int(name) for _, name in session.asked) < 70  # nothing was asked that could not help


def test_a_bound_of_nothing_is_said_to_be_out_of_reach(caplog):
    assert not find_strategy("one_budget").run(walked_problem(WrittenDown({}), bound=0.0)).met
    assert "No number of questions certifies a bound of 0" in caplog.text


def test_on_agreement_answers_that_change_count_whether_they_were_right_or_not():
    """As many gained as lost: the accuracy is kept, a third of the answers is not."""
    session = WrittenDown({0: set(range(0, 120, 6)), 3: set(range(3, 120, 6))})
    kept = one_budget_search(walked_problem(session, rungs=2))
    assert kept.chosen.budgets == same(1)
    changed = one_budget_search(walked_problem(session, rungs=2, on="agreement"))
    assert not changed.met
    quiet = one_budget_search(walked_problem(WrittenDown({3: {60}}), rungs=2, on="agreement"))
    assert (quiet.plan.certificate.lost, quiet.plan.certificate.on) == (1, "agreement")
    assert "answers at most 10 % of questions otherwise than full depth" in str(quiet.plan.certificate)
    unlucky = one_budget_search(walked_problem(WrittenDown({3: set(range(60, 90))}), rungs=2, on="agreement"))
    for found, said in ((changed, "% of answers changed"), (unlucky, "answered otherwise of")):
        assert said in found.candidates[0].verdict
        assert "lost" not in found.candidates[0].verdict


def test_every_certified_plan_of_a_walk_may_be_chosen_so_the_clock_may_choose():
    session = WrittenDown({}, seconds={0: 0.3, 3: 0.1, 6: 0.2, 9: 0.25})
    case = walked_problem(session, finalists=3, timed_questions=6)
    from litestage.search.choice import choose

    tried = [case.evaluate(same(rung)) for rung in (1, 2, 3)]
    found = choose(case, "pareto", tried, tried, tried, case.full(), clock=True, keep=True)
    assert found.chosen.budgets == same(1)  # 3 is predicted to be fastest, and the walk began with 1
    assert found.plan.certificate.plan == found.chosen.plan
    assert all(plan.certificate is not None for plan in found.plans.values())


# --- the plan's file ------------------------------------------------------------------------------------------------

PLAN = Plan(
    {"recall": StagePlan(skip=SkipSet(ffn=(3,)))}, model={"fingerprint": "f1", "layers": 12}, pipeline={"hash": "p1"}
)
CERTIFICATE = Certificate(PLAN.hash, "f1", "p1", 0.02, "accuracy", 0.9, "full", "menagerie", 256, 1, 0, 0.035)


def written(tmp_path, change=lambda raw: None):
    save_plan(replace(PLAN, certificate=CERTIFICATE), tmp_path / "plan.yaml")
    raw = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    change(raw)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(raw))
    return tmp_path / "plan.yaml"


def test_a_certificate_goes_with_the_plan_and_is_no_part_of_what_it_is(tmp_path):
    read = load_plan(written(tmp_path))
    assert read.certificate == CERTIFICATE
    assert read.hash == PLAN.hash
    assert read == PLAN
    assert "another task" in yaml.safe_load((tmp_path / "plan.yaml").read_text())["certificate"]["says_nothing_of"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda raw: raw["stages"]["recall"]["skip"].update(ffn=[3, 4]), ["is of the plan", "changed since"]),
        (lambda raw: raw["model"].update(fingerprint="f2"), ["model f1", "f2"]),
        (lambda raw: raw["pipeline"].update(hash="p2"), ["pipeline p1", "p2"]),
        (lambda raw: raw["certificate"].update(p=0.4), ["'p'", "0.4", "0.1"]),
        (lambda raw: raw["certificate"].update(bound=0.01), ["'p'", "0.035", "0.27"]),
        (lambda raw: raw["certificate"].update(questions=400), ["'p'", "0.035", "at this bound"]),
        (lambda raw: raw["certificate"].update(lost=0), ["'p'", "0.035", "these counts"]),
        (lambda raw: raw["certificate"].update(questions=0, lost=0), ["'questions'", "0"]),
        (lambda raw: raw["certificate"].update(lost=-1), ["'lost'", "-1"]),
        (lambda raw: raw["certificate"].update(lost=300), ["'questions'", "256", "300"]),
        (lambda raw: raw["certificate"].update(on="speed"), ["'on'", "speed"]),
        (lambda raw: raw["certificate"].pop("bound"), ["'bound'", "None"]),
        (lambda raw: raw["certificate"].update(bund=1), ["bund", "'bound'"]),
        (lambda raw: raw.update(certificate="yes"), ["certificate", "yes"]),
    ],
)
def test_a_certificate_that_is_not_of_this_plan_or_makes_no_sense_is_refused(tmp_path, change, named):
    with pytest.raises(LiteStageError) as error:
        load_plan(written(tmp_path, change))
    for word in ["plan.yaml", *named]:
        assert word in str(error.value)


def test_a_certificate_of_other_weights_or_prompts_is_left_out_and_that_is_said(caplog):
    plan = replace(PLAN, certificate=CERTIFICATE)
    in_8_bits = replace(PLAN, model={**PLAN.model, "weights": "int8"})
    as_chat = replace(PLAN, pipeline={**PLAN.pipeline, "chat_template": True})
    assert plan.certified_under(PLAN).certificate == CERTIFICATE
    assert not caplog.text
    for here, said in ((in_8_bits, "without weights in 8 bits"), (as_chat, "without the chat template")):
        assert plan.certified_under(here).certificate is None
        assert said in caplog.text
        made_so = replace(here, certificate=CERTIFICATE)
        assert made_so.certified_under(here).certificate == CERTIFICATE
        assert made_so.certified_under(PLAN).certificate is None


def test_another_exit_rule_makes_another_plan_without_a_certificate():
    from litestage.plan import ExitRule

    plan = replace(PLAN, certificate=CERTIFICATE)
    assert plan.with_exit(ExitRule()).certificate is None
    assert plan.with_exit(None).certificate == CERTIFICATE


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_certificate_is_one_sentence_with_its_figures_and_what_it_does_not_say():
    said = str(CERTIFICATE)
    assert said.count(". ") == 0
    for part in ("at 90 %", "at most 2 points", "menagerie", "1 lost and 0 gained of 256", "p = 0.035", "another task"):
        assert part in said


def test_a_row_says_whether_it_is_certified_and_of_another_task_a_certificate_says_nothing():
    full = {"plan": "a"}
    assert certified({"plan": "b", "certified": True, "certificate": asdict(CERTIFICATE)}, full) == "2 points, 90 %"
    with_exit = asdict(replace(CERTIFICATE, against="full+exit"))
    assert certified({"plan": "b", "certificate": with_exit, "certified": True}, full).endswith(", against full+exit")
    assert certified({"plan": "b", "certified": False}, full) == "no"
    assert certified({"plan": "a", "certified": False}, full) == "full depth"
    assert certified({"plan": "a", "certified": False, "model": "half"}, full) == "no"
    assert certified({"plan": "b"}, full) == ""
    assert certified({"plan": "b", "certified": False, "same_text": 1.0}, full) == "same text"
    assert certified({"plan": "b", "certified": False, "same_text": 0.986}, full) == "98.6% same text"
    plan = replace(PLAN, certificate=CERTIFICATE)
    for task, expected in (("menagerie", CERTIFICATE), ("obqa", None)):
        assert plan.certified_on(task) == expected


def test_search_json_and_its_report_have_the_certificate(tmp_path):
    found = one_budget_search(walked_problem(WrittenDown({3: set(), 6: {61}, 9: set(range(60, 90))})))
    write_search(found, tmp_path)
    record = json.loads((tmp_path / "search.json").read_text())
    assert record["certificate"] == asdict(found.plan.certificate)
    assert record["walk"]["questions"] == 60
    assert [step["passed"] for step in record["walk"]["steps"]] == [True, True, False]
    assert str(found.plan.certificate) in answer(Run(tmp_path, search=record))


def test_the_frontier_of_the_search_before_goes_and_what_is_somebodys_own_stays(tmp_path):
    folder = tmp_path / "frontier"
    save_plan(replace(PLAN, certificate=CERTIFICATE), folder / f"{PLAN.hash}.yaml")
    (folder / "notes.txt").touch()
    write_search(one_budget_search(walked_problem(WrittenDown({}))), tmp_path)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_a_comparisons_first_sentences_say_what_the_searched_plan_is_certified_at():
    measured = {"latency_s": {"mean": 0.03}, "speedup": 1.5, "speedup_ci95": [1.4, 1.6]}
    lost = {"accuracy": 0.9, "accuracy_drop": 0.01, "accuracy_drop_ci95": [0.0, 0.02]}
    full = {"name": "full", "plan": "a", "certified": False, **measured, **lost}

    def said(**more):
        return in_two_sentences(
            {"n": 100, "methods": [full, {"name": "litestage", "plan": "b", **measured, **lost} | more]}
        )

    assert str(CERTIFICATE) in said(certified=True, certificate=asdict(CERTIFICATE))
    assert said(certified=False).endswith("It is not certified to keep a bound.")
    assert "ertified" not in said()
    same = said(certified=False, same_text=0.986)
    assert same.endswith("It is full depth computed another way: the same text in 98.6% of the questions.")
    assert said(plan="a", certified=False).endswith("It is full depth itself.")
