"""How long a comparison will take: what there is to do, at a speed that is measured first."""

from time import sleep

import lightning
import pytest

from litestage.comparison import forecast as module
from litestage.comparison.forecast import Forecast, duration, forecast
from litestage.config import load_config
from litestage.ranks import Ranks
from litestage.search.race import ASKED
from litestage.session.workbench import Workbench


@pytest.fixture
def at_known_speed(monkeypatch):
    monkeypatch.setattr(module, "_seconds", lambda bench, questions, timed: (0.1, 0.5 if timed else 0.0))


def expected(tmp_path, *options):
    bench = Workbench.open(load_config([f"store={tmp_path / 'store.sqlite'}", "search.calibration=50", *options]))
    questions = bench.task.questions("test")[: bench.config.questions]
    return forecast(bench, bench.config.methods, questions, min(len(questions), bench.config.latency_questions))


def test_methods_times_questions_at_full_depths_speed(tmp_path, at_known_speed):
    found = expected(tmp_path, "methods=[full,uniform:4]", "questions=100", "latency_questions=9")
    assert (found.search_s, found.accuracy_s, found.latency_s) == pytest.approx((0, 20, 10))
    untimed = expected(tmp_path, "methods=[full,uniform:4]", "questions=100", "latency_questions=0")
    assert untimed.latency_s == 0


def test_every_search_counts_once_and_more_budgets_take_longer(tmp_path, at_known_speed):
    methods = "methods=[full,litestage,litestage+exit,cosine:best,cosine:best+exit]"
    few, many = (expected(tmp_path, methods, "questions=4", f"search.max_budget={most}") for most in (2, 8))
    paper = 50 * (1 + 3 * 3) * 0.1  # three stages, budgets 0, 1 and 2
    best = 50 * (1 + ASKED * 2) * 0.1
    assert few.search_s == pytest.approx(paper + best)
    assert many.search_s > 2 * few.search_s


def test_another_model_is_searched_once_where_it_has_a_row_under_a_plan(tmp_path, at_known_speed):
    others = "other_models={second: reference-half, uniform: reference-half}"
    rows = [["full-second", "uniform:4"], ["litestage"], ["litestage-second", "litestage-second+exit"]]
    found = [expected(tmp_path, others, f"methods=[{','.join(each)}]", "questions=4").search_s for each in rows]
    assert found[0] == 0
    assert found[2] == found[1] > 0


def test_it_is_one_line_with_what_takes_how_long():
    said = str(Forecast(5400, 0, 240, 20))
    assert said.startswith(
        "This will take roughly 1.6 h at full depth's speed (searching plans 1.5 h, accuracy 4 min, "
    )
    assert "latency 20 s" in said
    assert "\n" not in said
    assert "searching" not in str(Forecast(0, 0, 240, 20))
    assert [duration(seconds) for seconds in (0.4, 89, 91, 5399, 5401)] == ["0 s", "89 s", "2 min", "90 min", "1.5 h"]


def test_the_speed_is_measured_on_the_model_that_will_run(tmp_path):
    found = expected(tmp_path, "methods=[full]", "questions=3", "latency_questions=1")
    assert found.accuracy_s > 0
    assert found.latency_s > 0


def test_the_set_up_of_a_run_is_no_questions_time(tmp_path, monkeypatch):
    set_up = lightning.Trainer.__init__
    monkeypatch.setattr(lightning.Trainer, "__init__", lambda *args, **given: (sleep(3), set_up(*args, **given))[1])
    found = expected(tmp_path, "methods=[full]", "questions=8", "latency_questions=0")
    assert found.accuracy_s < 3


def test_ranks_share_the_questions(tmp_path, monkeypatch):
    alone = expected(tmp_path, "methods=[full]", "questions=8", "latency_questions=0")
    monkeypatch.setattr(module, "here", lambda: Ranks(devices=1000))
    assert expected(tmp_path, "methods=[full]", "questions=8", "latency_questions=0").accuracy_s < alone.accuracy_s / 20


def test_drafts_are_made_and_timed_before(tmp_path, at_known_speed):
    options = ("questions=4", "latency_questions=0", "search.confirm=10")
    found = expected(tmp_path, "methods=[full,full+lookup,full+self]", *options)
    assert found.drafts_s == pytest.approx(2 * (40 * 0.1 + 2 * module.TIMED * 0.5))
    assert found.latency_s == 0
    searched = expected(tmp_path, "methods=[full,litestage]", "search.draft=lookup", *options)
    assert searched.drafts_s == pytest.approx(found.drafts_s / 2)
