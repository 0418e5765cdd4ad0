"""Tasks: fixed splits that do not overlap, rows read from files laid out like the hub, bad rows refused by number."""

import json
import os
from pathlib import Path

import pytest

from litestage.conf import available
from litestage.data import load_task
from litestage.errors import LiteStageError

PUBLISHED = {
    "obqa": {"calibration": 500, "test": 500, "train": 4957},
    "csqa": {"calibration": 1221, "test": 1221, "train": 9741 - 1221},
    "strategyqa": {"calibration": 500, "test": 687, "train": 1603 - 500},
}
MENAGERIE = ("menagerie", "menagerie_five", "menagerie_yesno")


def write_rows(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def own_task(tmp_path: Path):
    def make(rows: list, **more: object) -> Path:
        write_rows(tmp_path / "rows.jsonl", rows)
        write_rows(tmp_path / "other.jsonl", [{"question": "Is ice cold?", "options": ["yes", "no"], "answer": "A"}])
        task = tmp_path / "mine.yaml"
        task.write_text(json.dumps({"rows": {"calibration": "other.jsonl", "test": "rows.jsonl"}, **more}))
        return task

    return make


def test_every_shipped_task_loads_without_reading_its_data():
    assert set(available("task")) >= {*PUBLISHED, *MENAGERIE}
    for name in (*PUBLISHED, *MENAGERIE):
        task = load_task(name)
        assert task.name == name
        assert task.through().stage_names == ("recall", "analyze", "summarize")
        assert set(task.splits) == {"calibration", "test", "train"}


@pytest.mark.parametrize("name", MENAGERIE)
def test_menagerie_needs_no_files(name: str):
    task = load_task(name)
    splits = {split: task.questions(split) for split in task.splits}
    assert (len(splits["test"]), len(splits["calibration"])) == (600, 512)
    assert task.pipeline == "recall_analyze_summarize"
    assert splits["test"] == load_task(name).questions("test")


@pytest.mark.skipif("LITESTAGE_DATA" not in os.environ, reason="LITESTAGE_DATA names no folder with the real data")
@pytest.mark.parametrize("name", PUBLISHED)
def test_real_data_has_the_published_sizes_and_splits_do_not_overlap(name: str):
    task = load_task(name)
    ids = {split: [question.id for question in task.questions(split)] for split in task.splits}
    assert {split: len(each) for split, each in ids.items()} == PUBLISHED[name]
    assert len({each for split in ids.values() for each in split}) == sum(PUBLISHED[name].values())


def test_csqa_calibration_is_the_same_draw_in_whatever_order_the_rows_come(tmp_path, monkeypatch):
    rows = [
        {"id": f"{n:05}", "question": f"q{n}", "choices": {"label": ["A", "B"], "text": ["x", "y"]}, "answerKey": "B"}
        for n in range(3000)
    ]
    drawn = []
    for order in (rows, rows[::-1]):
        write_rows(tmp_path / "commonsense_qa" / "train.jsonl", order)
        monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
        task = load_task("csqa")
        drawn.append({question.id for question in task.questions("calibration")})
        assert drawn[-1].isdisjoint(question.id for question in task.questions("train"))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 1221


def test_obqa_row_keeps_the_gold_fact_out_of_the_question(tmp_path, monkeypatch):
    row = {
        "id": "7-1",
        "question_stem": "The sun is a",
        "choices": {"text": ["star", "planet", "moon", "comet"], "label": ["A", "B", "C", "D"]},
        "answerKey": "A",
        "fact1": "the sun is a star of spectral class G",
    }
    write_rows(tmp_path / "openbookqa" / "test.jsonl", [row])
    monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
    (question,) = load_task("obqa").questions("test")
    assert (question.id, question.options[0], question.answer) == ("7-1", "star", "A")
    assert "spectral" not in question.text


def test_strategyqa_is_yes_or_no(tmp_path, monkeypatch):
    rows = [
        {"qid": "x", "question": " Is water wet? ", "answer": True},
        {"qid": "y", "question": "Is it dry?", "answer": False},
    ]
    write_rows(tmp_path / "strategyqa" / "test.jsonl", rows)
    monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
    first, second = load_task("strategyqa").questions("test")
    assert (first.text, first.options, first.answer, second.answer) == ("Is water wet?", ("yes", "no"), "A", "B")


def test_a_folder_without_the_file_is_named_with_the_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("LITESTAGE_DATA", str(tmp_path))
    with pytest.raises(LiteStageError, match=r"LITESTAGE_DATA .*openbookqa/test\.jsonl"):
        load_task("obqa").questions("test")


def test_hub_out_of_reach_names_the_variable(monkeypatch):
    import datasets

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no network")

    monkeypatch.delenv("LITESTAGE_DATA", raising=False)
    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(LiteStageError, match=r"'allenai/openbookqa' could not be fetched.*LITESTAGE_DATA"):
        load_task("obqa").questions("test")


def test_own_task_reads_letters_or_texts_as_answers(own_task):
    task = load_task(
        own_task(
            [
                {"question": "Is fire hot?", "options": ["yes", "no"], "answer": "A"},
                {"id": "mine", "question": "Is snow hot?", "options": ["yes", "no"], "answer": "no"},
            ],
            pipeline="single",
            max_new_tokens={"answer": 3},
        )
    )
    first, second = task.questions("test")
    assert (task.name, first.id, first.answer) == ("mine", "rows-1", "A")
    assert (second.id, second.answer) == ("mine", "B")
    assert task.through().stages[0].max_new_tokens == 3
    assert task.through("cot").stage_names == ("reason",)


def test_a_pipeline_file_beside_the_task_is_found_from_anywhere(own_task, tmp_path):
    (tmp_path / "stages.yaml").write_text("stages: [{name: think, prompt: '{{ question }} So it is option'}]\n")
    task = load_task(
        own_task([{"question": "Is fire hot?", "options": ["yes", "no"], "answer": "A"}], pipeline="stages.yaml")
    )
    assert task.through().stage_names == ("think",)


GOOD = {"question": "Is fire hot?", "options": ["yes", "no"], "answer": "A"}


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({**GOOD, "options": []}, "no options"),
        ({**GOOD, "answer": "C"}, "'C'"),
        ({**GOOD, "answer": 1}, "answer is 1"),
        ({**GOOD, "options": ["C", "B", "A"]}, "the answer 'A' is one option's letter and another's text"),
        ({**GOOD, "question": "  "}, "empty"),
        ({**GOOD, "question": 7}, "question is 7"),
        ({**GOOD, "options": ["yes", ""]}, "empty option"),
        ({**GOOD, "options": "yes"}, "options is 'yes'"),
        ({"question": "?", "answer": "A"}, "no 'options'"),
        (["not", "an", "object"], "not a JSON object"),
    ],
)
def test_a_malformed_row_is_named_by_file_row_and_value(own_task, bad: object, complaint: str):
    task = load_task(own_task([GOOD, bad]))
    with pytest.raises(LiteStageError, match=complaint) as raised:
        task.questions("test")
    message = str(raised.value)
    assert "rows.jsonl, row 2" in message
    assert message.count("\n") == 0


def test_broken_json_repeated_ids_and_empty_files_are_refused(own_task, tmp_path):
    path = own_task([])
    with pytest.raises(LiteStageError, match="has no rows"):
        load_task(path).questions("test")
    (tmp_path / "rows.jsonl").write_text('{"question": \n')
    with pytest.raises(LiteStageError, match=r"row 1 is not a JSON object: \{\"question\""):
        load_task(path).questions("test")
    write_rows(tmp_path / "rows.jsonl", [{**GOOD, "id": "a"}, {**GOOD, "id": "a"}])
    with pytest.raises(LiteStageError, match="row 2: the id 'a' occurs twice"):
        load_task(path).questions("test")
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(LiteStageError, match="There is no file"):
        load_task(path).questions("test")


def test_a_letter_that_is_its_own_options_text_is_an_answer(own_task):
    (question,) = load_task(own_task([{**GOOD, "options": ["A", "B"], "answer": "B"}])).questions("test")
    assert question.answer == "B"


def test_a_split_with_no_question_left_is_refused(own_task, tmp_path):
    path = own_task([GOOD])
    path.write_text("rows: {all: rows.jsonl}\nsplits: {calibration: all, test: {of: all, without: calibration}}\n")
    with pytest.raises(LiteStageError, match="The split 'test' of the task 'mine' has no question left"):
        load_task(path).questions("test")


def test_a_split_that_draws_more_rows_than_there_are_is_told_once(own_task, caplog):
    path = own_task([GOOD, {**GOOD, "id": "2"}])
    path.write_text("rows: {all: rows.jsonl}\nsplits: {calibration: {of: all, draw: 2}, test: {of: all, draw: 500}}\n")
    assert len(load_task(path).questions("test")) == len(load_task(path).questions("test")) == 2
    (warning,) = caplog.messages
    assert "draws 500 rows of 'all', which has 2" in warning


def test_test_questions_among_the_calibration_questions_are_told_once(tmp_path, caplog):
    write_rows(tmp_path / "known.jsonl", [GOOD, {**GOOD, "question": "Is ice hot?"}])
    write_rows(tmp_path / "new.jsonl", [{**GOOD, "id": "other"}])
    (tmp_path / "leaky.yaml").write_text("rows: {calibration: known.jsonl, test: new.jsonl}\n")
    task = load_task(tmp_path / "leaky.yaml")
    task.questions("calibration")
    task.questions("calibration")
    (warning,) = caplog.messages
    assert "1 of the 2 calibration questions of the task 'leaky' are test questions too" in warning


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("rows: {test: a.jsonl}", "no split 'calibration'"),
        ("pipelin: cot\nmenagerie: menagerie", "did you mean 'pipeline'"),
        ("pipeline: cot", "no rows"),
        ("menagerie: menagery", "did you mean 'menagerie'"),
        ("hub: {path: a/b, folder: c, format: openbook}", "did you mean 'openbookqa'"),
        ("hub: {path: a/b}", "has no 'folder'"),
        ("menagerie: menagerie\nsplits: {calibration: a, testing: b}", "did you mean 'test'"),
        ("- a list", "holds a list"),
    ],
)
def test_a_malformed_task_file_is_refused(tmp_path, text: str, complaint: str):
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(LiteStageError, match=complaint) as raised:
        load_task(path)
    assert "task.yaml" in str(raised.value)


def test_an_unknown_task_or_split_names_the_nearest():
    with pytest.raises(LiteStageError, match="did you mean 'obqa'"):
        load_task("obka")
    with pytest.raises(LiteStageError, match="did you mean 'calibration'"):
        load_task("menagerie").questions("calibrate")
