"""Rows that people write: only a line feed ends a line, a byte-order mark comes off, all else is one sentence."""

import json

import pytest

from litestage.data.rows import read_jsonl, to_questions
from litestage.records import read_asked
from litestage.stages.gold import read_staged

ROW = {"question": "Why?", "options": ["so", "no"], "answer": "A"}


@pytest.fixture
def rows(tmp_path):
    def read(content):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return to_questions(read_jsonl(path), "questions", str(path), prefix="r")

    return read


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\u0085", "\x1c", "\x0b", "\x0c", "\r"], ids=ascii)
def test_only_a_line_feed_ends_a_line(rows, sign, tmp_path):
    text = f"a{sign}b"
    (question,) = rows(json.dumps({**ROW, "question": text}, ensure_ascii=False))
    assert question.text == text
    staged = tmp_path / "staged.jsonl"
    staged.write_text(json.dumps({"id": "1", **ROW, "recall": text}, ensure_ascii=False) + "\n", newline="")
    assert read_staged(staged)[0].gold["recall"] == text
    stage = {"name": "s", "texts": [text], "tokens": [1], "stops": ["eos"]}
    line = {
        "id": "1",
        "text": text,
        "options": ["x"],
        "answer": "A",
        "traces": {"full": {"answer": None, "correct": None, "stages": [stage]}},
    }
    traces = tmp_path / "traces.jsonl"
    traces.write_text(json.dumps(line, ensure_ascii=False) + "\n", newline="")
    assert read_asked(traces)[0]["text"] == text


def test_windows_line_ends_blank_lines_and_a_byte_order_mark_are_no_trouble(rows):
    one = json.dumps(ROW)
    assert len(rows(b"\xef\xbb\xbf" + f"{one}\r\n\r\n{one}\r\n".encode())) == 2


@pytest.mark.parametrize(
    "line",
    [
        '{"question": "Why?"',
        "5",
        "[]",
        "null",
        '"text"',
        "{'question': 1}",
        "[" * 99_999,
        "9" * 9_999,
        '{"question": "Why?", "options": ["a"], "answer": "A", "x": NaN}',
        '{"question": "Why?", "options": ["a"], "answer": "A", "x": -Infinity}',
        '{"question": "Why?", "options": ["a"], "answer": "A", "x": 1e999}',
        '{"question": "Why?", "options": ["a", "b"], "answer": "A", "answer": "B"}',
        '{"question": "\\ud800", "options": ["a"], "answer": "A"}',
        *(
            json.dumps({**ROW, **wrong})
            for wrong in (
                {"question": None},
                {"question": ""},
                {"question": 5},
                {"question": ["Why?"]},
                {"options": "so"},
                {"options": []},
                {"options": None},
                {"options": {}},
                {"options": [1, 2]},
                {"options": ["a", ""]},
                {"options": ["a", " "]},
                {"options": [f"{n}" for n in range(27)]},
                {"options": [f"{n}" for n in range(900)]},
                {"answer": None},
                {"answer": 0},
                {"answer": True},
                {"answer": ""},
                {"answer": "C"},
                {"answer": "a"},
                {"answer": "AB"},
                {"answer": ["A"]},
                {"options": ["x", "x"], "answer": "x"},
                {"id": []},
                {"id": {}},
                {"id": True},
                {"id": 1.5},
            )
        ),
        *(json.dumps({key: value for key, value in ROW.items() if key != left_out}) for left_out in ROW),
    ],
    ids=lambda line: line[:40],
)
def test_a_row_that_is_no_question_names_file_and_row(one_sentence, rows, line):
    one_sentence(lambda: rows(f"{json.dumps(ROW)}\n{line}\n"), "rows.jsonl", "row 2")


def test_encodings_name_file_and_row_and_what_to_do(one_sentence, rows):
    latin = json.dumps({**ROW, "question": "café"}, ensure_ascii=False).encode("latin-1")
    one_sentence(lambda: rows(json.dumps(ROW).encode() + b"\n" + latin), "rows.jsonl", "row 2", "iconv")
    one_sentence(lambda: rows(json.dumps(ROW).encode("utf-16")), "rows.jsonl", "UTF-16", "iconv")
    one_sentence(lambda: rows(json.dumps(ROW).encode("utf-16-le")), "rows.jsonl")
    one_sentence(lambda: rows(b"PAR1\x95\0\0\0\0PAR1"), "rows.jsonl", "binary data")


def test_absent_empty_and_a_folder_are_one_sentence(one_sentence, rows, tmp_path):
    one_sentence(lambda: rows(""), "rows.jsonl", "no rows")
    one_sentence(lambda: rows("\n \n"), "rows.jsonl", "no rows")
    one_sentence(lambda: read_jsonl(tmp_path), str(tmp_path), "folder")
    one_sentence(lambda: read_jsonl(tmp_path / "absent.jsonl"), "absent.jsonl")


def test_twenty_six_options_a_huge_row_and_an_option_that_spells_letters_are_no_trouble(rows):
    options = [f"option {n}" for n in range(26)]
    (question,) = rows(json.dumps({"question": "x" * 1_000_000, "options": options, "answer": "option 25"}))
    assert question.answer == "Z"
    (question,) = rows(json.dumps({**ROW, "options": ["x", "AB", "y"], "answer": "AB"}))  # letters, but not one
    assert question.answer == "B"


def test_a_task_with_such_rows_is_refused_by_the_command_that_names_it(refused, tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(json.dumps(ROW).encode("utf-16"))
    (tmp_path / "mine.yaml").write_text("rows: {calibration: rows.jsonl, test: rows.jsonl}")
    from litestage.data import load_task
    from litestage.errors import LiteStageError

    with pytest.raises(LiteStageError, match="UTF-16"):
        load_task("mine.yaml").questions("test")


@pytest.mark.parametrize(
    "line",
    [
        "5",
        "{",
        '{"id": "a"}',
        "[]",
        '{"id":"a","question":"q","options":5,"answer":"A"}',
        '{"id":"a","question":"q","options":["x"],"answer":"A","recall":NaN}',
        '{"id":"a","question":"q","options":["x"],"answer":"A","recall":""}',
        "",
    ],
)
def test_a_staged_row_that_is_none_is_one_sentence(one_sentence, tmp_path, line):
    (tmp_path / "s.jsonl").write_text(line)
    one_sentence(lambda: read_staged(tmp_path / "s.jsonl"), "s.jsonl")
