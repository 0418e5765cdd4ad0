"""The tests that README and docs/guarantees.md name as keepers of a promise are there."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")


def kept_by(row):
    """(file, test) pairs that a row of the tables names."""
    return re.findall(r"`((?:inputs/|faults/)?test_\w+\.py)::(test_\w+)`", row)


ROWS = [
    line for line in GUARANTEES.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| what went"))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_every_trouble_names_tests_that_exist(row):
    named = kept_by(row)
    assert named
    for file, test in named:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, file


def test_every_file_that_readme_names_as_a_keeper_exists():
    guaranteed = (
        (ROOT / "README.md").read_text(encoding="utf-8").partition("## What is guaranteed")[2].partition("\n## ")[0]
    )
    named = re.findall(r"`(?:tests/)?((?:inputs/|faults/)?test_\w+\.py)`", guaranteed)
    assert len(set(named)) > 20
    assert [name for name in named if not (TESTS / name).is_file()] == []
