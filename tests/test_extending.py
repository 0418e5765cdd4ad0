"""The exercises of docs/extending.md, each carried out on a copy of the repository as they stand there."""

import filecmp
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("litestage", "conf", "tasks", "tests")
COUNTS = {"one file": 1, "two files": 2}
SEEN = {
    "An exit rule": '"stops":["exit"]',
    "A fourth stage": '"name":"doubt"',
    "A search strategy": "strategy: drawn",
    "A model family": " passed",
}
"""What comes out, or stands in the plan that was written, only if the addition is really used."""
PROGRAMS = {"litestage": ("-c", "from litestage.cli import main; main()"), "pytest": ("-m", "pytest", "-q")}
pytestmark = pytest.mark.slow


def exercises():
    """By heading: what is to be seen, how many files it says it touches, and its blocks as (language, text)."""
    for section in (ROOT / "docs" / "extending.md").read_text().split("\n## ")[1:]:
        heading, _, count = section.splitlines()[0].partition(": ")
        blocks = re.findall(r"^```(\w*)\n(.*?)^```$", section, flags=re.DOTALL | re.MULTILINE)
        yield pytest.param(SEEN[heading], COUNTS[count], blocks, id=heading)


@pytest.fixture
def copy(tmp_path):
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def carried_out(blocks, where):
    """Writes and edits what the blocks show; returns their commands."""
    commands = []
    for language, block in blocks:
        if not language:
            commands += block.splitlines()
            continue
        first, rest = block.split("\n", 1)
        file = where / first.lstrip("#- ")
        if language != "diff":
            assert not file.exists()
            file.write_text(rest)
            continue
        lines = rest.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] != "+")
        after = "".join(line[1:] for line in lines if line[0] != "-")
        text = file.read_text()
        assert text.count(before) == 1, f"{before!r} stands {text.count(before)} times in {first}"
        file.write_text(text.replace(before, after))
    return commands


def touched(where):
    """Files that are not in the repository, or other ones there."""
    files = (path.relative_to(where) for path in where.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return [file for file in files if not (ROOT / file).is_file() or not filecmp.cmp(ROOT / file, where / file, False)]


@pytest.mark.parametrize(("seen", "files", "blocks"), list(exercises()))
def test_an_addition_touches_as_many_files_as_it_says_and_works(seen, files, blocks, copy):
    commands = carried_out(blocks, copy)
    assert len(touched(copy)) == files
    environment = {**os.environ, "PYTHONPATH": str(copy), "HOME": str(copy), "XDG_CACHE_HOME": str(copy / "cache")}
    (command,) = commands
    program, *words = shlex.split(command)
    words += ["--json"] if program == "litestage" else []
    ran = subprocess.run(
        [sys.executable, *PROGRAMS[program], *words], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    plans = [plan.read_text() for plan in copy.glob("runs/**/plan.yaml")]
    assert seen in "\n".join([ran.stdout, *plans])
