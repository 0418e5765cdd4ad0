"""Staged training data: built from what people wrote about training questions, never from a calibration or test row."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from litestage.data import load_task
from litestage.data.build import build, judged, repeated
from litestage.data.explanations import FORMATS
from litestage.data.facts import FactBook, stems
from litestage.errors import LiteStageError
from litestage.stages import Question, load_pipeline
from litestage.stages.gold import StagedRow, read_staged, write_staged
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


def test_recall_is_the_facts_that_people_gave():
    question = Question("1", "Is it warmer in June?", ("yes", "no"), "A")
    book = FactBook([])
    assert FORMATS["openbookqa"].recall(question, {"fact1": "the sun is a  star ."}, book) == "The sun is a star."
    recall = FORMATS["strategyqa"].recall
    assert recall(question, {"facts": [" June is in summer.", "summer is warm"]}, book) == (
        "June is in summer. Summer is warm."
    )
    joined = {"facts": "June is in summer. Summer is warm."}  # as ChilleD/StrategyQA has them
    assert recall(question, joined, book) == "June is in summer. Summer is warm."
    long = {"facts": ["one two.", "word " * 50, "three.", "four."]}
    assert recall(question, long, book) == "One two. Three."


def test_recall_is_a_property_that_speaks_for_the_answer_and_the_book_has_those_that_do_not_judge():
    question = Question("1", "Where are cars fast?", ("race track", "train track", "roads"), "A")
    row = {
        "question_concept": "cars",
        "taskA_pos": "Racers compete on the race track\nCars are fast on a race track.",
        "taskA_neg": "A train runs on the train track.\nRoads are not for racing\nThey are roads",
    }
    explain = FORMATS["commonsense_qa"]
    assert explain.facts(row)[-1] == "A train runs on the train track"
    assert explain.recall(question, row, FactBook(explain.facts(row))) == "Racers compete on the race track."


def test_without_properties_recall_is_what_others_say_about_the_concept():
    question = Question("1", "Where does an otter swim?", ("river", "desert"), "A")
    recall = FORMATS["commonsense_qa"].recall
    book = FactBook(["An otter in the desert is lost", "An otter eats fish", "A river is wet"])
    assert recall(question, {"question_concept": "otter"}, book) == "An otter eats fish."
    neutral = "Swimming is what the question is about."
    assert recall(question, {"question_concept": "swimming"}, FactBook(["fish eat"])) == neutral


def test_the_nearest_fact_has_the_rarer_words_and_is_not_too_long():
    book = FactBook(["a dog is a pet", "a pet shop sells dogs", "A dog is a pet", "a shop is a room", "dogs bark"])
    assert len(book.facts) == 4
    assert book.nearest({"bark", "dog"}) == ["dogs bark"]
    assert book.nearest({"bark", "dog"}, but=["Dogs bark"], covers=0.2)[0] == "a dog is a pet"
    assert book.nearest({"shop"}, words=4) == []
    assert book.nearest({"whale"}) == []
    assert stems("The shops") == stems("shop")
    assert stems("is it") == {"i", "it"}


def test_verdicts_that_a_model_might_give_are_wrong_as_often_as_a_models():
    questions = [Question(str(number), "Why?", ("a", "b", "c", "d"), "C") for number in range(4000)]
    called = [judged(question, 0) for question in questions]
    assert called == [judged(question, 0) for question in questions]
    share = Counter(min(len(each), 2) for each in called)
    assert abs(share[0] / 4000 - 0.25) < 0.03
    assert abs(share[2] / 4000 - 0.30) < 0.03
    assert {"C"} == set().union(*(each for each in called if len(each) == 1))
    ties = ["C" in each for each in called if len(each) > 1]
    assert 0.75 < sum(ties) / len(ties) < 0.92
    assert {frozenset(judged(Question(str(n), "?", ("yes", "no"), "B"), 0)) for n in range(50)} == {
        frozenset(),
        frozenset("B"),
        frozenset("AB"),
    }


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
    facts = {told for row in rows for told in row.seen["recall"]}
    assert len(facts) > len(rows) / 10
    for row in rows:
        assert row.gold["recall"] not in row.seen["recall"]
        assert len(row.gold["recall"].split()) <= 40
        for analyses in row.seen["analyze"]:  # of the same options, whatever the verdict
            both = zip(analyses, row.gold["analyze"], strict=True)
            assert all(seen.rsplit(maxsplit=1)[0] == gold.rsplit(maxsplit=1)[0] for seen, gold in both)
        assert PIPELINE.parse_answer(row.gold) == row.question.answer
        right = [text.endswith(" is correct.") for text in row.gold["analyze"]]
        assert right == [label == row.question.answer for label in row.question.labels]


def test_the_command_writes_what_training_reads_and_says_what_it_left_out(litestage, obqa_rows: Path):
    code, out, _ = litestage("data", "build", "task=obqa", "--json")
    (row,) = read_staged("runs/data/obqa.jsonl")
    assert (code, row.question.text, row.gold["summarize"]) == (0, "The sun is a", "So the answer is option A.")
    assert "Left out: 3 (asked in the same or nearly the same words in calibration or test)." in out
    assert "Answers: A 100%. Verdicts: correct 25%, incorrect 75%." in out
    assert [len(row.seen[stage]) for stage in ("recall", "analyze")] == [0, 2]  # there is no other question's fact
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


def test_what_a_later_stage_may_see_comes_back_as_it_was_written(tmp_path: Path):
    gold = {"recall": "x.", "analyze": ["a", "b"]}
    rows = [
        StagedRow(Question("1", "Why?", ("a", "b"), "A"), gold, {"recall": ["y.", "z."], "analyze": [["c", "d"]]}),
        StagedRow(Question("2", "Why?", ("a", "b"), "A"), gold),
    ]
    write_staged(rows, tmp_path / "rows.jsonl")
    assert read_staged(tmp_path / "rows.jsonl") == rows
    assert "seen" not in (tmp_path / "rows.jsonl").read_text().splitlines()[1]


@pytest.mark.parametrize(
    ("seen", "named"),
    [
        (["x"], r"seen is \['x'\]; give a list of texts for each stage"),
        ({"recal": ["x"]}, "seen has 'recal', did you mean 'recall'"),
        ({"recall": "x"}, "'x' for 'recall'; give a list"),
        ({"recall": [" "]}, "shaped like 'recall'"),
        ({"recall": [["x", "y"]]}, "shaped like 'recall'"),
        ({"analyze": [["x"]]}, "shaped like 'analyze'"),
        ({"analyze": ["x"]}, "shaped like 'analyze'"),
    ],
)
def test_texts_seen_have_the_shape_of_their_stage(tmp_path: Path, seen: object, named: str):
    row = {"id": "1", "question": "Why?", "options": ["a", "b"], "answer": "A", "recall": "x", "analyze": ["a", "b"]}
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "seen": seen}))
    with pytest.raises(LiteStageError, match=f"rows.jsonl, line 1: .*{named}"):
        read_staged(tmp_path / "rows.jsonl")
