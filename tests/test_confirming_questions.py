"""Which calibration questions a search sees, which are kept to certify it, and what of the options makes no sense."""

from types import SimpleNamespace

import pytest

from litestage.config import load_config
from litestage.errors import LiteStageError
from litestage.profile import StepCosts
from litestage.session import Session
from litestage.session.workbench import SearchQuestions, Workbench


def questions_of(*options):
    bench = object.__new__(Workbench)
    rows = [SimpleNamespace(id=str(index)) for index in range(100)]
    bench.config = load_config(list(options))
    bench.task = SimpleNamespace(name="t", questions=lambda split: rows)
    return [[int(q.id) for q in part] for part in (bench.calibration(), bench.confirmation())], bench


def test_up_to_four_fifths_of_the_calibration_questions_certify_unless_told_otherwise():
    (seen, confirm), bench = questions_of("search.calibration=80", "search.max_accuracy_drop=0.1")
    assert (seen, confirm) == (list(range(28)), list(range(28, 80)))  # 2 of 52 may be lost, and no more of 64
    assert [int(q.id) for q in SearchQuestions(bench).questions("calibration")] == seen  # what rankings measure on
    assert questions_of("search.calibration=80", "search.confirm=50")[0][1] == list(range(30, 80))
    assert questions_of("search.calibration=80", "search.confirm=0")[0] == [list(range(80)), []]
    assert questions_of()[0] == [list(range(20)), list(range(20, 100))]  # fewer rows than asked for, and too few
    with pytest.raises(LiteStageError, match=r"search\.confirm is 120, but the calibration split has 100"):
        questions_of("search.confirm=120")


def test_fresh_questions_are_in_no_split_and_always_the_same():
    from litestage.data import load_task

    source = load_task("menagerie").source
    fresh = source.fresh(2000)
    asked = {
        (question.text, frozenset(question.options))
        for split in ("calibration", "test", "train")
        for question in source.questions(split)
    }
    assert len({(question.text, frozenset(question.options)) for question in fresh} - asked) == 2000
    assert fresh[:50] == source.fresh(50)
    with pytest.raises(LiteStageError, match="110488 questions"):
        source.fresh(200_000)
    with pytest.raises(LiteStageError, match="0 questions"):
        load_task("menagerie_yesno").source.fresh(1)


def test_what_a_plan_loses_on_fresh_questions_is_what_it_loses_when_every_token_is_decoded(tmp_path, monkeypatch):
    from litestage.experiment.fresh import FreshQuestions

    each = (1e-3, 0, 2e-4, 0, 0, 3e-4, 0)
    monkeypatch.setattr(Session, "step_costs", lambda self, forms=(): StepCosts(12, each, each, 0.0))
    bench = Workbench.open(load_config([f"store={tmp_path / 'store.sqlite'}"]))
    trials = FreshQuestions.of(bench, 60)
    plans = {"full": bench.plan("full"), "plan": bench.plan("uniform:12"), "exit": bench.plan("uniform:4+exit")}
    answers = bench.session.without_reuse().run(trials.questions, plans, bench.pipeline)
    before = bench.session.reusing.ran
    for name in ("plan", "exit", "plan"):
        row = trials.row(plans[name])
        both = list(zip(answers["full"], answers[name], strict=True))
        assert row["lost"] == sum(full.correct and not own.correct for full, own in both), name
        assert row["gained"] == sum(own.correct and not full.correct for full, own in both), name
        assert row["true_agreement"] == pytest.approx(sum(a.answer == b.answer for a, b in both) / 60), name
    assert 0 < trials.row(plans["plan"])["lost"] < 60
    assert bench.session.reusing.ran == before  # nothing went to the command's store


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("search.confidence=1", ["search.confidence", "1"]),
        ("search.confidence=0", ["search.confidence"]),
        ("search.bound=acuracy", ["search.bound", "'accuracy'"]),
        ("search.confirm=256", ["search.confirm", "256"]),
        ("search.confirm=-1", ["search.confirm", "-1"]),
    ],
)
def test_options_that_make_no_sense_are_told(option, named):
    with pytest.raises(LiteStageError) as error:
        load_config([option])
    for word in named:
        assert word in str(error.value)
