"""Pipeline and task YAML: one text where a list is meant is one; whatever else does not fit is one sentence."""

import json
import time

import pytest
from tiny import contestant

from litestage.data import load_task
from litestage.runner import run
from litestage.stages import Pipeline, Question, Stage, load_pipeline

QUESTION = Question("q", "Why?", ("so", "no"), "A")
GOOD = "stages: [{name: one, prompt: '{{ question }}'}]\n"


@pytest.fixture
def pipeline(tmp_path):
    def make(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_pipeline(path)

    return make


@pytest.mark.parametrize(
    ("stop", "meant"),
    [
        ("END", ("END",)),
        ('"\\n"', ("\n",)),
        ("[END, '5']", ("END", "5")),
        ("5", ("5",)),
        ("[on, 010]", ("on", "010")),
        ("null", ()),
        ("[]", ()),
    ],
)
def test_one_stop_string_is_one_and_texts_stay_texts(pipeline, stop, meant):
    assert pipeline(f"stages: [{{name: one, prompt: x, stop: {stop}}}]").stages[0].stop == meant


def test_a_pipelines_texts_stay_texts(pipeline):
    made = pipeline("name: 010\ndescription: 1e3\nstages: [{name: on, prompt: 2024-01-01, max_new_tokens: 010}]")
    assert (made.name, made.description, made.stage_names) == ("010", "1e3", ("on",))
    assert (made.stages[0].prompt, made.stages[0].max_new_tokens) == ("2024-01-01", 10)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "5",
        "stages",
        "stages: []",
        "stages: 3",
        "stages: {a: b}",
        "stages: [3]",
        "stages: [null]",
        "stages: [",
        "name: x",
        "stages: [{}]",
        "stages: [{name: a}]",
        "stages: [{prompt: x}]",
        "stages: [{name: A, prompt: x}]",
        "stages: [{name: null, prompt: x}]",
        "stages: [{name: [a], prompt: x}]",
        "stages: [{name: a, prompt: [x]}]",
        "stages: [{name: a, prompt: x, max_new_tokens: 0}]",
        "stages: [{name: a, prompt: x, max_new_tokens: many}]",
        "stages: [{name: a, prompt: x, max_new_tokens: 1.5}]",
        "stages: [{name: a, prompt: x, max_new_tokens: [1]}]",
        "stages: [{name: a, prompt: x, stop: {a: b}}]",
        "stages: [{name: a, prompt: x, stop: ['']}]",
        "stages: [{name: a, prompt: x, stop: [[a]]}]",
        "stages: [{name: a, prompt: x, fan_out: stages}]",
        "stages: [{name: a, prompt: x, mode: fast}]",
        "stages: [{name: a, prompt: x, mode: joint}]",
        "stages: [{name: a, prompt: x, mode: [joint]}]",
        "stages: [{name: a, prompt: x, max_tokens: 3}]",
        "stages: [{name: a, prompt: x}, {name: a, prompt: y}]",
        "stages: [{name: a, prompt: '{{ b }}'}]",
        "stages: [{name: a, prompt: '{{ question'}]",
        "stages: [{name: a, prompt: '{% for x %}'}]",
        "stages: [{name: a, prompt: '{{ question | nosuch }}'}]",
        "stages: [{name: a, prompt: '{{ " + "(" * 2000 + "'}]",
        GOOD + "answer: '([A-Z]'",
        GOOD + "answer: '[A-Z]'",
        GOOD + "answer: '([A-Z])(x)'",
        GOOD + "answer: [a]",
        GOOD + "answer: '(a{99999999999})'",
        GOOD + "answer: '(?P<x>'",
        GOOD + "stages: []",
        GOOD + "hash: x",
        GOOD + "description: {a: b}",
        GOOD + "name: [x]",
        GOOD + "examples: 5",
        GOOD + "examples: [5]",
        GOOD + "examples: [{}]",
        GOOD + "examples: [{question: x, options: abc, answer: A, one: y}]",
        GOOD + "examples: [{question: x, options: [a], answer: B, one: y}]",
        GOOD + "examples: [{question: x, options: [a], answer: A, one: {a: b}}]",
        GOOD + "examples: [{question: x, options: [a], answer: A}]",
        GOOD + "examples: [{question: x, options: [a], answer: A, one: y, two: z}]",
        GOOD + "answer: {cue: x}",
        GOOD + "answer: {pattern: '([A-Z])', chose: likelihood}",
        GOOD + "answer: {pattern: '([A-Z])', choose: always}",
        GOOD + "answer: {pattern: [x]}",
    ],
)
def test_a_pipeline_that_cannot_be_is_one_sentence(one_sentence, pipeline, text):
    one_sentence(lambda: pipeline(text), "mine.yaml")


@pytest.mark.parametrize(
    "prompt",
    [
        "{{ options[7].text }}",
        "{{ 1 / 0 }}",
        "{{ option.text }}",
        "{{ question() }}",
        "{% include 'x' %}",
        "{{ range(10 ** 9) | list }}",
        "{{ question + 1 }}",
        "{{ question.x.y }}",
        "{{ options }}",
        "{{ options[0] }}",
        "{{ option }}",
        "{% for o in options %}{{ o }}{% endfor %}",
        "{{ options | map(attribute='text') | list }}",
    ],
)
def test_a_prompt_that_cannot_be_made_is_one_sentence(one_sentence, pipeline, prompt):
    made = pipeline(f"stages: [{{name: one, prompt: {json.dumps(prompt)}}}]")
    one_sentence(lambda: made.stages[0].prompts(QUESTION, {}), "'one'", "'q'")


@pytest.mark.parametrize(
    "read", ["{{ one[0] }}", "{{ one | join(' ') }}", "{% for text in one %}{{ text }}{% endfor %}"]
)
def test_one_text_that_is_read_as_a_list_is_one_sentence(one_sentence, pipeline, read):
    """As a stage's texts are where it fans out, and its one text where it is joint."""
    stages = [{"name": "one", "prompt": "x", "fan_out": "options"}, {"name": "two", "prompt": read}]
    made = pipeline(json.dumps({"stages": stages}))
    assert made.stages[1].prompts(QUESTION, {"one": ["yes", "no"]})
    one_sentence(lambda: made.stages[1].prompts(QUESTION, {"one": "yes and no"}), "'two'", "'q'")


def test_one_text_is_read_whole_or_in_part(pipeline):
    prompt = "{{ one if one is string }} {{ one[:3] }} {{ one | sentence }} {{ one.split() | last }} {{ 'no' in one }}"
    made = pipeline(json.dumps({"stages": [{"name": "one", "prompt": "x"}, {"name": "two", "prompt": prompt}]}))
    assert made.stages[1].prompts(QUESTION, {"one": "yes and no"}) == ["yes and no yes yes and no. no True"]


@pytest.mark.parametrize("timed", [True, False])
def test_an_empty_prompt_names_stage_and_question(one_sentence, timed):
    empty = contestant(pipeline=Pipeline("empty", (Stage("one", "{{ question }}", 2), Stage("two", "{{ one[:0] }}"))))
    one_sentence(lambda: run([QUESTION], {"full": empty}, timed=timed), "'two' is empty", "'q'")


def test_encodings_folders_and_absence_are_one_sentence(one_sentence, pipeline, tmp_path, not_text):
    for content in not_text.values():
        one_sentence(lambda content=content: pipeline(content), "mine.yaml", "UTF-8")
    (tmp_path / "folder.yaml").mkdir()
    one_sentence(lambda: load_pipeline(tmp_path / "folder.yaml"), "folder")
    one_sentence(lambda: load_task(tmp_path / "folder.yaml"), "folder")
    one_sentence(lambda: load_pipeline("nowhere.yaml"), "nowhere.yaml")
    assert pipeline("﻿" + GOOD).stage_names == ("one",)


def test_an_answer_pattern_that_never_ends_is_one_sentence_on_a_long_text(one_sentence, pipeline, monkeypatch):
    monkeypatch.setattr("litestage.stages.pipeline.PATIENCE_S", 0.2)
    made = pipeline(GOOD + r"answer: '^(?:a|aa)+!([A-Z])$'")
    started = time.perf_counter()
    one_sentence(lambda: made.parse_answer({"one": "a" * 200 + "?!B"}), "nested repetition")
    assert time.perf_counter() - started < 60


def test_options_that_look_like_templates_stops_or_answers_are_only_texts(pipeline):
    texts = ("{{ 7 * 7 }}", "{% raw %}", "END", "the answer is option (B).", "the answer is option B.")
    made = pipeline(
        "stages:\n- {name: one, stop: END, prompt: '{{ question }}{% for o in options %} {{ o.text }}{% endfor %}'}\n"
        "- {name: two, prompt: '{{ one }}'}"
    )
    question = Question("q", "the answer is option A. {{ question }} END", texts, "A")
    (prompt,) = made.stages[0].prompts(question, {})
    assert prompt == " ".join((question.text, *texts))
    assert made.stages[1].prompts(question, {"one": texts[0]}) == [texts[0]]
    assert made.parse_answer({"one": question.text, "two": "none"}) is None


# --- tasks


@pytest.fixture
def task(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"question": "Why?", "options": ["a", "b"], "answer": "A"}\n')

    def make(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_task(path)

    return make


ROWS = "rows: {calibration: r.jsonl, test: r.jsonl}\n"
HUB = "hub: {path: a/b, folder: c, format: openbookqa%s}\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a",
        "5",
        "{",
        "name: x",
        ROWS + "menagerie: menagerie",
        "rows: r.jsonl",
        "rows: [r.jsonl]",
        "rows: {}",
        "rows: null",
        "rows: {test: r.jsonl}",
        "rows: {calibration: [a], test: b}",
        "rows: {calibration: null, test: b}",
        "rows: {calibration: a, test: b, exam: c}",
        ROWS + "name: [x]",
        ROWS + "pipeline: [x]",
        ROWS + "pipeline: 5.5e1\nx: 1",
        ROWS + "max_new_tokens: 5",
        ROWS + "max_new_tokens: {one: many}",
        ROWS + "max_new_tokens: {one: 0}",
        ROWS + "splits: 5",
        ROWS + "splits: [test]",
        ROWS + "splits: {calibration: test, test: nosuch}",
        ROWS + "splits: {calibration: {of: test, draw: 0}, test: test}",
        ROWS + "splits: {calibration: {of: test, draw: x}, test: test}",
        ROWS + "splits: {calibration: {of: test, drawn: 5}, test: test}",
        ROWS + "splits: {calibration: {draw: 5}, test: test}",
        ROWS + "splits: {calibration: {of: test, without: test}, test: {of: test, without: calibration}}",
        ROWS + "splits: {calibration: {of: test, without: calibration}, test: test}",
        ROWS + "splits: {calibration: {of: test, without: [a]}, test: test}",
        ROWS + "splits: {calibration: 5.0, test: [a]}",
        "hub: a/b",
        "hub: {path: a/b}",
        HUB % ", split: x",
        HUB % ", config: [x]",
        "menagerie: [menagerie]",
        "menagerie: null",
        "hub: {path: null, folder: c, format: openbookqa}",
        "hub: {path: a, folder: b, format: c}",
    ],
)
def test_a_task_that_cannot_be_is_one_sentence(one_sentence, task, text):
    one_sentence(lambda: task(text), "mine.yaml")


def test_a_tasks_texts_stay_texts_and_its_files_lie_beside_it(task, tmp_path, monkeypatch):
    (tmp_path / "010").write_text('{"question": "Why?", "options": ["a", "b"], "answer": "A"}\n')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = task("name: 1e5\nrows: {calibration: 010, test: 010}\nmax_new_tokens: {recall: 010}")
    assert (made.name, made.max_new_tokens) == ("1e5", {"recall": 10})
    assert len(made.questions("test")) == 1


def test_encodings_of_a_task_are_one_sentence(one_sentence, task, not_text):
    for content in not_text.values():
        one_sentence(lambda content=content: task(content), "mine.yaml", "UTF-8")


# --- hub data sets carry the revision that was read

SHA, OTHER = "a" * 40, "b" * 40


@pytest.fixture
def hub(monkeypatch):
    import datasets

    asked = []

    class Builder:
        hash = SHA

        def download_and_prepare(self):
            pass

        def as_dataset(self, split):
            return [{"qid": f"{split}1", "question": "Why?", "answer": True}]

    monkeypatch.delenv("LITESTAGE_DATA", raising=False)
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda *what, revision: (asked.append(revision), Builder())[1]
    )
    return asked


STRATEGY = "hub: {path: a/b, folder: c, format: strategyqa%s}\nsplits: {calibration: validation, test: test}\n"


def test_the_revision_that_was_read_is_known_and_all_splits_are_read_at_it(task, hub):
    made = task(STRATEGY % "")
    assert made.source.origin == {"hub": "a/b", "config": None, "revision": None}
    made.questions("test")
    assert made.source.origin["revision"] == SHA
    made.questions("calibration")
    assert hub == [None, SHA]


def test_a_task_may_pin_the_revision_and_gets_no_other(one_sentence, task, hub):
    made = task(STRATEGY % ", revision: 0123")
    made.questions("test")
    assert hub == ["0123"]
    one_sentence(lambda: task(STRATEGY % f", revision: {OTHER}").questions("test"), OTHER, SHA)
