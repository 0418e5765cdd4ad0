"""ARCHITECTURE.md says what is so."""

import re
import sys
from pathlib import Path

from tiny import contestant, some_questions

TEXT = Path(__file__).parents[1].joinpath("ARCHITECTURE.md").read_text()


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
