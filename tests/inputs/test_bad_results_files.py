"""Run folders, baselines and searches that are absent, cut short, of another schema, or hold what nobody wrote."""

import copy
import json

import pytest
from run_folders import EXPERIMENT, FULL, OURS, PROFILE, SEARCH, compared, question, results

READERS = (("report", "run"), ("gate", "run/results.json", "--baseline", "good/results.json"))


@pytest.fixture
def run(tmp_path):
    """A folder as a comparison leaves it, one of whose files holds something else."""
    compared(tmp_path / "good")
    folder = compared(tmp_path / "run")

    def broken(name, content):
        raw = (
            content
            if isinstance(content, bytes)
            else (content if isinstance(content, str) else json.dumps(content)).encode()
        )
        (folder / name).write_bytes(raw)

    return broken


NOT_JSON = {
    "empty": "",
    "cut short": json.dumps(results(FULL, OURS))[:-40],
    "no object": "[]",
    "nothing": "null",
    "NaN": json.dumps(results({**FULL, "accuracy": float("nan")})),
    "infinity": json.dumps(results(FULL)).replace("0.9", "1e999", 1),
    "deep": "[" * 99_999,
    "another schema": json.dumps({**results(FULL), "schema": "litestage.results/2"}),
    "a list as the schema": json.dumps({**results(FULL), "schema": ["litestage.results/1"]}),
    "no schema": json.dumps({"methods": []}),
    "half a surrogate pair": json.dumps({**results(FULL), "task": "\ud800"}),
}


@pytest.mark.parametrize("text", NOT_JSON.values(), ids=NOT_JSON)
@pytest.mark.parametrize("command", READERS, ids=lambda command: command[0])
def test_results_that_do_not_read_are_one_sentence(refused, run, text, command):
    run("results.json", text)
    refused(*command, names=["results.json"])


def test_absent_folders_and_encodings_are_one_sentence(refused, run, tmp_path, not_text):
    refused("report", "nowhere", names=["nowhere"])
    refused("gate", "nowhere.json", names=["nowhere.json"])
    refused("gate", "run", "--baseline", "good/results.json", names=["run"])
    refused("gate", "run/results.json", "--baseline", "good", names=["good"])
    for content in not_text.values():
        run("results.json", content)
        for command in READERS:
            refused(*command, names=["results.json", "UTF-8"])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("search.json", {**SEARCH, **wrong})
            for wrong in (
                {"met": "yes"},
                {"full": None},
                {"candidates": {}},
                {"chosen": {**SEARCH["chosen"], "budgets": {"think": 1}}},
                {"candidates": [{**SEARCH["full"], "accuracy": "x"}]},
                {"schema": "litestage.search/9"},
            )
        ),
        *(
            ("profile.json", {**PROFILE, "importance": wrong})
            for wrong in (
                None,
                {},
                {"cosine": {}, "questions": 1},
                {"cosine": {"a": {}}, "questions": 1},
                {"cosine": {"a": {"mhsa.x": 1.0}}, "questions": 1},
                {"cosine": {"a": {"ffn.999999999": 1.0}}, "questions": 1},
            )
        ),
        ("traces.jsonl", "{}"),
        ("traces.jsonl", "{"),
        ("traces.jsonl", "5\n"),
        ("traces.jsonl", json.dumps({**question(), "traces": {}})),
        ("traces.jsonl", json.dumps({**question(), "options": "abc"})),
        (
            "traces.jsonl",
            json.dumps(question())
            + "\n"
            + json.dumps({**question(), "traces": {"full": question()["traces"]["full"]}}),
        ),
        ("traces.jsonl", json.dumps(question()).replace('"tokens": [3]', '"tokens": [3, 4]')),
        ("traces.jsonl", json.dumps(question()).replace("0.25", "NaN")),
        *(
            ("results.json", {**EXPERIMENT, **wrong})
            for wrong in ({"rows": 5}, {"rows": [5]}, {"shows": []}, {"rows": [{"x": 1, "x_ci95": 5}]}, {"model": "m"})
        ),
    ],
)
def test_what_stands_beside_results_is_held_to_its_shape_too(refused, run, name, content):
    run(name, content)
    refused("report", "run", names=[name])


@pytest.mark.parametrize(
    "samples",
    [
        "{",
        "5",
        "{}",
        '{"method": "full", "id": "q", "correct": 1, "tokens": {}}',
        '{"method": "full", "id": "q", "correct": true, "tokens": {"think": NaN}}',
        '{"method": "full", "id": "q", "correct": true, "tokens": {"think": 1}}',
        '{"method": "full", "id": "q", "correct": true, "tokens": {"think": 1, "answer": 1}}',
    ],
)
def test_samples_that_do_not_fit_are_one_sentence(refused, run, samples):
    run("samples.jsonl", samples)
    refused(*READERS[1], names=["samples"])


@pytest.mark.parametrize(
    "samples",
    [
        5,
        [],
        {},
        {"ids": 5},
        {"ids": "a", "methods": {"full": {}}},
        {"ids": "a", "methods": {"full": {"correct": "1", "tokens": {"think": "1"}, "latency_s": "nan"}}},
        {"ids": "a", "methods": {"full": {"correct": "1", "tokens": {"think": "x"}, "latency_s": "-"}}},
    ],
)
def test_a_baselines_samples_that_do_not_read_are_one_sentence(litestage, run, samples):
    run("baseline.json", {**results(FULL, OURS), "samples": samples})
    code, _, err = litestage("gate", "good/results.json", "--baseline", "run/baseline.json")
    assert code == 2 or not samples, err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", ["", "{", "[]", {"schema": "x"}, {**SEARCH, "frontier": 5}])
def test_plan_best_of_a_search_that_does_not_read_is_one_sentence(refused, run, content):
    run("search.json", content)
    refused("plan", "best", "run", "0.02", names=["search.json"])
    refused("plan", "best", "nowhere", "0.02", names=["nowhere"])
    refused("plan", "best", "good", "nan", names=["nan"])


def paths(value, at=()):
    """Every place in JSON."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*at, key))


def replaced(value, at, new):
    if not at:
        return new
    value = copy.copy(value)
    value[at[0]] = replaced(value[at[0]], at[1:], new)
    return value


@pytest.mark.parametrize("wrong", [None, "x", -1, [], {}, True, 1e300])
def test_any_part_of_results_that_is_something_else_is_read_or_one_sentence(tmp_path, wrong):
    """Every part of a comparison's files replaced in turn: a report's texts and the gate's figures, or one sentence."""
    from litestage.errors import LiteStageError
    from litestage.gate import read_record
    from litestage.records import Results, check
    from litestage.report.answer import in_two_sentences
    from litestage.report.failures import failures
    from litestage.report.runs import Run
    from litestage.report.tables import methods_table
    from litestage.tracking.figures import figures, tables

    good = results(FULL, OURS)
    path = tmp_path / "results.json"
    for at in paths(good):
        bad = replaced(good, at, wrong)
        path.write_text(json.dumps(bad))
        try:
            read_record(path)
            check(bad, Results, path)
        except LiteStageError:
            continue
        run = Run(tmp_path, comparison=bad)
        in_two_sentences(bad), failures(run), methods_table(bad), figures(run), tables(run)
