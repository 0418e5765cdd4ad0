"""ARCHITECTURE.md says what is so."""

import ast
import re
import sys
from pathlib import Path

from tiny import contestant, some_questions

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
FILES = sorted((ROOT / "litestage").rglob("*.py"))


def room(file):
    """The folder or the file right under litestage/ that a file belongs to."""
    return file.relative_to(ROOT / "litestage").parts[0].removesuffix(".py")


ROOMS = {room(file) for file in FILES} - {"__init__"}


def test_a_timed_question_passes_these_functions_in_this_order():
    (flow,) = (line for line in TEXT.splitlines() if line.startswith("Contestant.answer"))
    told, answering, called = flow.split(" ▶ "), contestant(), []
    assert len(told) < 12

    def note(frame, event, _):
        if event == "call" and "litestage" in frame.f_code.co_filename:
            file, function = Path(frame.f_code.co_filename).stem, frame.f_code.co_qualname
            called.append(f"{file}.{function}" if "." not in function else function)

    sys.setprofile(note)
    try:
        answering.answer(some_questions(1), timed=True)
    finally:
        sys.setprofile(None)
    first = [called.index(name) for name in told]
    assert first == sorted(first)


def test_every_file_of_the_engine_is_told_and_there():
    (row,) = (line for line in TEXT.splitlines() if line.startswith("| `litestage/engine/`"))
    files = {path.name for path in Path(sys.modules["litestage.engine"].__file__).parent.rglob("[a-z]*.py")}
    assert set(re.findall(r"`(\w+\.py)`", row)) == files - {"requests.py"}


def test_every_room_is_told_and_there():
    table = TEXT.split("| room |")[1].split("\n\n")[0]
    first = "\n".join(row.split("|")[1] for row in table.splitlines()[2:])
    told = {name.strip("/").removesuffix(".py") for name in re.findall(r"`(?:litestage/)?(\w+(?:/|\.py))`", first)}
    assert told - {"conf", "tasks", "reference"} == ROOMS - {"conf"}


def imported(node):
    """What a file imports of litestage when it is itself imported, and not for its types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom):
            name = child.module or ""
            yield from [f"litestage.{one.name}" for one in child.names] if name == "litestage" else [name]
        elif isinstance(child, ast.Import):
            yield from (one.name for one in child.names)
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            types_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from [] if types_only else imported(child)


def test_a_room_imports_from_rows_above_its_own_only():
    (rows,) = re.findall(r"## Who imports whom\n.*?```\n(.*?)```", TEXT, flags=re.DOTALL)
    place = {name: at for at, row in enumerate(rows.splitlines()) for name in row.split()}
    assert place.keys() == ROOMS
    seen = 0
    for file in FILES:
        for module in imported(ast.parse(file.read_text())):
            other = module.removeprefix("litestage.").partition(".")[0]
            if module.startswith("litestage.") and other in ROOMS and other != room(file):
                seen += 1
                assert place[other] < place.get(room(file), len(place)), f"{file} imports {module}"
    assert seen > 100
