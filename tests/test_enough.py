"""What is said where there are too few questions is what then happens, and what would help."""

import pytest
from test_certificate import no_environment, walked_problem  # noqa: F401  the fixture
from test_racing import WrittenDown

from litestage.search import find_strategy


def test_where_the_questions_would_do_it_is_the_confirming_ones_that_are_too_few(caplog):
    find_strategy("one_budget").run(walked_problem(WrittenDown({}), bound=0.02, questions=190, confirm=10))
    assert "Raise search.confirm to 114 or more, or search.max_accuracy_drop" in caplog.text


@pytest.mark.parametrize(
    ("strategy", "said"), [("greedy", "the plan chosen may lose more"), ("one_budget", "full depth")]
)
def test_what_too_few_questions_choose_without_a_certificate_is_what_is_said(caplog, strategy, said):
    found = find_strategy(strategy).run(walked_problem(WrittenDown({}), bound=0.02, questions=8, confirm=0))
    assert "8 calibration questions cannot show that a plan loses at most 2 points" in caplog.text
    assert said in caplog.text
    assert found.met == (strategy == "greedy")
