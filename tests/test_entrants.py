"""What the rows of a comparison stand for, and what they say of themselves."""

from types import SimpleNamespace

import pytest

from litestage.comparison.entrants import entrant_of
from litestage.config import load_config
from litestage.plan import Plan
from litestage.search.candidate import Candidate, SearchResult

FULL = Candidate({"recall": 0}, 0.9, 0.0, 0.1, {"recall": 0.1}, 9.0, 60)
SKIPS = Candidate({"recall": 2}, 0.9, 0.0, 0.08, {"recall": 0.08}, 9.0, 60, exit={"rule": "entropy", "threshold": 2.0})


@pytest.fixture
def bench():
    """Finds nothing or, under a bound of a half, a plan with an exit rule; counts its searches."""
    searched = []

    def search(options):
        searched.append(options)
        met = options is not None and options.max_accuracy_drop == 0.5
        return SearchResult(Plan.full(("recall",)), SKIPS if met else FULL, FULL, [], met)

    return SimpleNamespace(
        config=load_config(["variants={strict: {max_accuracy_drop: 0.01}, free: {max_accuracy_drop: 0.5}}"]),
        session=SimpleNamespace(contestant=lambda pipeline, plan: SimpleNamespace(plan=plan)),
        pipeline=None,
        with_suffixes=lambda plan, suffixes: plan,
        search=search,
        best_budget=lambda method: search(None),
        searched=searched,
    )


@pytest.mark.parametrize("specs", [["uniform:best+exit", "uniform:best"], ["free", "free+exit"], ["free+exit", "free"]])
def test_a_search_is_made_once_whichever_of_its_rows_comes_first(bench, specs):
    made = {}
    for spec in specs:
        made[spec] = entrant_of(bench, spec, None, made)
    assert len(bench.searched) == 1


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("strict", "within 1.0% of full depth: full depth"),
        ("strict+exit", "within 1.0% of full depth: full depth with the exit rule"),
        ("uniform:best", "within 2.0% of full depth: full depth"),
        ("free", "(exit rule: entropy"),
        ("free+exit", "(exit rule: confidence"),
    ],
)
def test_a_row_says_its_own_bound_and_its_own_exit_rule(bench, spec, said):
    note = entrant_of(bench, spec, None, {}).note
    assert said in note
    assert note.endswith(said) or spec.startswith("free")
