"""The menagerie asks in one split what it asks in no other, and its gold texts lead to the right answer."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from litestage.errors import LiteStageError
from litestage.menagerie import VARIANTS, load_split
from litestage.menagerie.world import ANIMALS, RELATIONS, facts
from litestage.stages import Question, load_pipeline
from litestage.stages.gold import StagedRow, read_staged, write_staged

SPLITS = {"train": 7200, "calibration": 512, "test": 600}
PIPELINE = load_pipeline("recall_analyze_summarize")


def asked(row: StagedRow) -> tuple[str, frozenset[str]]:
    """The question's text fixes animal and relation, and with yes or no also the value asked about."""
    return row.question.text, frozenset(row.question.options)


def test_the_world_has_120_animals_with_one_value_for_each_of_6_relations() -> None:
    assert len(set(ANIMALS)) == 120
    assert len(facts()) == len({(fact.animal, fact.relation.name) for fact in facts()}) == 720
    values = [value for relation in RELATIONS for value in relation.values]
    assert len(values) == len(set(values)) == 72


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_split_asks_what_another_asks(variant: str) -> None:
    sets = {split: {asked(row) for row in load_split(variant, split)} for split in SPLITS}
    assert len(sets["test"]) == 600
    assert len(sets["calibration"]) == 512
    assert not sets["test"] & sets["calibration"]
    assert not sets["train"] & (sets["test"] | sets["calibration"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("split", SPLITS)
def test_sizes_are_as_promised_and_answers_balanced_over_the_letters(variant: str, split: str) -> None:
    rows = load_split(variant, split)
    letters = Counter(row.question.answer for row in rows)
    assert len(rows) == len({row.question.id for row in rows}) == SPLITS[split]
    assert len(letters) == {"menagerie": 4, "menagerie_five": 5, "menagerie_yesno": 2}[variant]
    assert max(letters.values()) - min(letters.values()) <= 1


def test_every_fact_is_asked_about_in_training() -> None:
    recalled = {row.gold["recall"] for variant in VARIANTS for row in load_split(variant, "train")}
    assert recalled == {fact.statement for fact in facts()}


def test_another_process_draws_the_same_rows_without_importing_torch() -> None:
    script = (
        "import sys; from litestage.menagerie import VARIANTS, load_split;"
        "rows = [repr(row) for variant in VARIANTS for row in load_split(variant, 'test')];"
        "assert 'torch' not in sys.modules; print(''.join(rows))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == "".join(repr(row) for variant in VARIANTS for row in load_split(variant, "test"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_gold_texts_lead_to_the_answer_and_compare_before_they_judge(variant: str) -> None:
    for row in load_split(variant, "test"):
        assert PIPELINE.parse_answer(row.gold) == row.question.answer
        verdicts = [text.endswith("so it is correct.") for text in row.gold["analyze"]]
        assert verdicts == [label == row.question.answer for label in row.question.labels]
        for text in row.gold["analyze"]:
            compared, found = text.split("compare ")[1].split(":", 1)
            one, other = compared.split(" with ")
            assert found.startswith(" same" if one == other else " different")


def test_staged_rows_survive_a_jsonl_file(tmp_path: Path) -> None:
    rows = load_split("menagerie_five", "test")[:20]
    write_staged(rows, tmp_path / "rows.jsonl")
    assert read_staged(tmp_path / "rows.jsonl") == rows


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("not json", "line 1 is not a staged row"),
        ('{"id": 1, "question": "Why?", "options": ["a"]}', "no 'answer'"),
        ('{"id": 1, "question": "Why?", "options": [], "answer": "A"}', "no options"),
        ('{"id": 1, "question": "Why?", "options": ["a", "b"], "answer": "C"}', "'C'"),
        ('{"id": 1, "question": "Why?", "options": ["a", "b"], "answer": "A", "analyze": ["x"]}', "'analyze'"),
        ("", "no rows"),
    ],
)
def test_a_malformed_staged_file_is_one_clear_sentence(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    with pytest.raises(LiteStageError, match=named) as caught:
        read_staged(path)
    assert len(str(caught.value).splitlines()) == 1


def test_unknown_variants_splits_and_files_are_named() -> None:
    with pytest.raises(LiteStageError, match="did you mean 'menagerie_five'"):
        load_split("menagerie_fife", "test")
    with pytest.raises(LiteStageError, match="did you mean 'test'"):
        load_split("menagerie", "tets")
    with pytest.raises(LiteStageError, match=r"no staged JSONL file 'nowhere\.jsonl'"):
        read_staged("nowhere.jsonl")


def test_a_staged_row_may_hold_any_stages(tmp_path: Path) -> None:
    row = StagedRow(Question("1", "Why?", ("a", "b"), "A"), {"think": "Because.", "answer_stage": ["x", "y"]})
    write_staged([row], tmp_path / "rows.jsonl")
    assert read_staged(tmp_path / "rows.jsonl") == [row]
