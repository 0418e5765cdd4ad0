"""What the rows of a comparison stand for, and what they say of themselves."""

from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_certificate import CERTIFICATE
from tiny_model import save_tiny_model

from litestage.comparison.another_model import another_model
from litestage.comparison.compare import compare
from litestage.comparison.entrants import check_methods, entrant_of
from litestage.comparison.grid.made_of import made_of, model_files
from litestage.config import load_config
from litestage.data import load_task
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.plan.words import certified
from litestage.search.candidate import Candidate, SearchResult
from litestage.session.workbench import Workbench

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


def test_another_model_has_rows_at_full_depth_and_under_a_plan_that_was_searched_for_it(tmp_path, monkeypatch):
    asked, search = [], Workbench.search
    monkeypatch.setattr(Workbench, "search", lambda bench, *args: asked.append(bench.session) or search(bench, *args))
    rows = ["full-second", "litestage-second", "litestage-second+exit"]
    options = [
        *(
            "task=menagerie",
            "search.calibration=8",
            "search.confirm=0",
            "search.max_budget=2",
            f"store={tmp_path / 's'}",
        ),
        *("other_models={second: reference-half}", f"methods=[{','.join(rows)}]", "questions=6", "latency_questions=1"),
    ]
    bench = Workbench.open(load_config(options))
    found = compare(bench)
    entries = {entry["name"]: entry for entry in found.results["methods"]}
    assert list(entries) == ["full", *rows]
    assert {entry.get("model") for name, entry in entries.items() if name != "full"} == {"reference-half"}
    assert all(entry["note"].startswith("another model: reference-half") for entry in list(entries.values())[1:])
    (session,) = asked  # one search, and on the other model
    assert session is not bench.session
    layers = {"full": bench.session, "full-second": session}
    assert [each.engine.decoder.layers for each in layers.values()] == [12, 6]
    for name in ("full", "full-second"):
        alone = layers[name].contestant(bench.pipeline, Plan.full(bench.pipeline.stage_names))
        texts = [trace.stages for trace in alone.answer(found.questions, timed=False)]
        assert [[stage.texts for stage in each] for each in texts] == [
            [stage.texts for stage in trace.stages] for trace in found.measured[name].accuracy
        ]
    assert found.plans["litestage-second"].model["fingerprint"] == session.loaded.about["fingerprint"]
    assert found.plans["litestage-second+exit"]["analyze"].exit


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("other_models={half: reference-half}", "other_models.half: 'full-half' is a row already"),
        ("other_models={bare: reference}|variants={litestage-bare: {}}", "'litestage-bare' is a row already"),
        ("other_models={second: ./runs/none}", "./runs/none"),
        ("methods=[full-second+exit]", r"no row 'full-second'; give .*other_models=\{second: FOLDER"),
    ],
)
def test_another_model_that_is_not_there_or_has_a_rows_name_is_told_before_anything_runs(option, said):
    with pytest.raises(LiteStageError, match=said):
        check_methods(load_config([*option.split("|")]))


def test_another_model_has_nothing_of_the_comparisons_own():
    options = ["model.adapter=runs/tuned", "model.revision=main", "other_models={second: reference-half}"]
    theirs = another_model(load_config(options), "litestage-second").config.model
    assert (theirs.pretrained, theirs.adapter, theirs.revision) == ("reference-half", None, None)


def test_a_certificate_of_another_model_says_beside_what():
    entry = {"plan": "b", "certified": True, "certificate": asdict(CERTIFICATE), "model": "another"}
    assert certified(entry, {"plan": "a"}) == "2 points, 90 %, beside its own full depth"


def test_a_comparison_beside_another_model_is_another_when_that_changes(tmp_path):
    other = save_tiny_model(tmp_path / "other")
    config = load_config(["task=menagerie", f"other_models={{second: {other}}}"])

    def digests():
        return made_of(config, load_task("menagerie"), model_files(config.model))

    before = digests()
    assert digests() == before
    settings = Path(other) / "config.json"
    settings.write_text(settings.read_text() + " ")
    assert digests() != before
