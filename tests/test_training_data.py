"""Staged training data: built from what people wrote about training questions, never from a calibration or test row."""

import json
import os
import sys
from pathlib import Path

import pytest

from litestage.cli import main
from litestage.data import load_task
from litestage.data.build import build, repeated
from litestage.data.explanations import commonsense_qa, openbookqa, strategyqa
from litestage.errors import LiteStageError
from litestage.menagerie import read_staged
from litestage.stages import Question, load_pipeline
from litestage.training.examples import stage_examples

PIPELINE = load_pipeline("recall_analyze_summarize")
REAL = pytest.mark.skipif("LITESTAGE_DATA" not in os.environ, reason="LITESTAGE_DATA names no folder with real data")


def obqa(number: int, stem: str, fact: str, *options: str) -> dict:
    choices = {"text": list(options or ("star", "moon", "rock", "fish")), "label": ["A", "B", "C", "D"]}
    return {"id": str(number), "question_stem": stem, "choices": choices, "answerKey": "A", "fact1": fact}


@pytest.fixture
def obqa_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    splits = {
        "train": [
            obqa(1, "The sun is a", "the sun is a star"),
            obqa(2, "A thing that shines is a", "a star shines."),
            obqa(3, "is a thing that shines A", "a star shines"),  # the words of number 5, in another order
            obqa(4, "A thing that shines is a", "a star shines", "moon", "star", "fish", "rock"),
            obqa(6, "What shines?", "a star shines", "star", "star", "fish", "rock"),
            obqa(7, "What burns?", " "),
        ],
        "validation": [obqa(5, "A thing that shines", "a star shines")],
        "test": [obqa(8, "What swims?", "fish swim")],
    }
    for name, rows in splits.items():
        path = tmp_path / "openbookqa" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
    return tmp_path


def test_a_fact_says_what_follows_and_what_does_not():
    question = Question("1", "The sun is a", ("moon", "star"), "B")
    explained = openbookqa(question, {"fact1": "the sun is a  star."})
    assert explained.recall == "The sun is a star."
    assert explained.analyze == (
        'the sun is a star; "moon" does not follow, so it is incorrect.',
        'the sun is a star; "star" follows, so it is correct.',
    )


def test_facts_and_steps_make_a_yes_or_no():
    question = Question("1", "Is it warmer in June?", ("yes", "no"), "A")
    facts = [" June is in summer.", "summer is warm"]
    steps = ["When is June?", "Is #1 warm?"]
    explained = strategyqa(question, {"facts": facts, "decomposition": steps})
    assert explained.recall == "June is in summer. Summer is warm."
    asked = "(1) When is June? (2) Is answer 1 warm? The facts answer yes, so it is "
    assert explained.analyze == (f"{asked}correct.", f"{asked}incorrect.")
    assert strategyqa(question, {"facts": "June is warm."}).analyze[0] == "the facts answer yes, so it is correct."


def test_properties_go_to_the_option_they_name():
    question = Question("1", "Where are cars fast?", ("race track", "train track", "roads"), "A")
    row = {
        "taskA_pos": "Racers compete on the race track\nCars are fast there.",
        "taskA_neg": "A train is on the train track.\nRoad traffic is slow\nRacing is not for trains",
    }
    explained = commonsense_qa(question, row)
    assert explained.recall == "Racers compete on the race track. Cars are fast there."
    assert explained.analyze == (
        "Racers compete on the race track, so it is correct.",
        "A train is on the train track, so it is incorrect.",
        "Road traffic is slow, so it is incorrect.",
    )


def test_what_another_split_asks_is_left_out_whatever_the_order_of_its_words(obqa_rows: Path):
    built = build(load_task("obqa"))
    assert [row.question.id for row in built.rows] == ["1"]
    assert built.left_out == {
        "asked in the same or nearly the same words in calibration or test": 3,  # 2, 3 and 4: 5 words of number 5
        "two options of the same text": 1,
        "no fact": 1,
    }
    assert built.alike == [("2", "5"), ("3", "5"), ("4", "5")]
    assert build(load_task("obqa")) == built


def test_nearly_the_same_is_four_fifths_of_the_words_of_both():
    def asked(*texts: str) -> list[Question]:
        return [Question(text, text, ("a", "b"), "A") for text in texts]

    near, far = "Where do wild cats live now?", "Where do the wild cats go now?"  # 5 of 6 words, and 5 of 8
    assert repeated(asked(near, far, "No"), asked("live where, wild cats do")) == {near: "live where, wild cats do"}


@REAL
@pytest.mark.parametrize(
    ("name", "stages"),
    [("obqa", 4), ("csqa", 5), ("strategyqa", 2)],
)
def test_real_rows_are_training_rows_only_and_fit_the_pipeline(name: str, stages: int):
    task = load_task(name)
    built = build(task)
    rows = built.rows
    others = [question for split in ("calibration", "test") for question in task.questions(split)]
    assert {row.question.id for row in rows} <= {question.id for question in task.questions("train")}
    assert {row.question.id for row in rows}.isdisjoint(question.id for question in others)
    assert {row.question.text.lower() for row in rows}.isdisjoint(question.text.lower() for question in others)
    assert len(rows) + sum(built.left_out.values()) == len(task.questions("train"))
    assert len(rows) >= 1000
    examples = stage_examples(rows, PIPELINE)
    assert [len(each) for each in examples.values()] == [len(rows), stages * len(rows), len(rows)]
    assert not [example for each in examples.values() for example in each if "\n" in example.completion]
    for row in rows:
        assert PIPELINE.parse_answer(row.gold) == row.question.answer
        right = [text.endswith("so it is correct.") for text in row.gold["analyze"]]
        assert right == [label == row.question.answer for label in row.question.labels]


@pytest.fixture
def litestage(monkeypatch, capsys, tmp_path):
    """Runs a command in this process, in a folder of its own: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["litestage", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, *capsys.readouterr()

    return run


def test_the_command_writes_what_training_reads_and_says_what_it_left_out(litestage, obqa_rows: Path):
    code, out, _ = litestage("data", "build", "task=obqa", "--json")
    (row,) = read_staged("runs/data/obqa.jsonl")
    assert (code, row.question.text, row.gold["summarize"]) == (0, "The sun is a", "So the answer is option A.")
    assert "Left out: 3 (asked in the same or nearly the same words in calibration or test)." in out
    told = json.loads(out.splitlines()[-1])
    assert told["rows"] == {"recall": 1, "analyze": 4, "summarize": 1}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["task=menagerie"], "'menagerie' has no published explanations"),
        (["task=csqa"], "no commonsense_qa/train.jsonl"),
        (["output=folder"], "ends in .jsonl"),
        (["questions=0"], "questions is 0"),
        (["quest=3"], "did you mean 'questions'"),
    ],
)
def test_a_mistake_is_one_sentence(litestage, obqa_rows: Path, options: list, named: str):
    code, out, err = litestage("data", "build", *options)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert named in err


def test_without_ecqa_it_is_said_where_to_put_it(obqa_rows: Path):
    row = {"id": "1", "question": "Why?", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "A"}
    for name in ("train", "validation"):
        path = obqa_rows / "commonsense_qa" / f"{name}.jsonl"
        path.parent.mkdir(exist_ok=True)
        rows = [{**row, "id": f"{name}{number}", "question": f"{name}{number}?"} for number in range(1300)]
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    with pytest.raises(LiteStageError, match=r"'csqa' can be used: 79: no explanation.*LITESTAGE_DATA/ecqa"):
        build(load_task("csqa"))
