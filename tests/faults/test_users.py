"""A real user without rights, name and home: what cannot be written is one sentence, what can be is enough to work."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

NOBODY = 12345  # a user as containers start one: no name, no home
COMPARE = ["compare", "methods=[full,uniform:2]", "questions=4", "latency_questions=1"]
COMMANDS = """
import json, sys
from litestage.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["litestage", *command]
    print("<begin>", file=sys.stderr)
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException as error:
        code = repr(error)
    print(f"<end>{code}", file=sys.stderr)
"""
AS_NOBODY = """
set -e
if [ -n "$1" ]; then  # this Python is in a folder that is closed to others: here, and only here, it stands open
    mkdir -p "$3/$2" && mount --bind "$1/$2" "$3/$2" && mount --rbind "$3" "$1"
fi
user="$4"
shift 4
exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs -- "$@"
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def place():
    """A folder that everybody may look into, and nobody but us may write."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def closed_to_others(path):
    """The first folder on the way to it that others cannot pass, and the rest of the way; or two empty texts."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return str(folder), str(path.relative_to(folder))
    return "", ""


def ran(place, *commands):
    """Exit code and standard error of every command, run by one process of a user without rights."""
    if os.getuid() or not (shutil.which("unshare") and shutil.which("setpriv")):
        pytest.skip("only root, with util-linux, can become another user")
    opened = place / "opened"
    opened.mkdir(mode=0o755)
    python = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    command = ["unshare", "--mount", "sh", "-c", AS_NOBODY, "sh", *closed_to_others(Path(sys.base_prefix))]
    variables = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    variables = {key: value for key, value in variables.items() if not key.startswith("XDG_")}
    done = subprocess.run(
        [*command, str(opened), str(NOBODY), *python],
        **{"cwd": place, "capture_output": True, "text": True, "check": False, "timeout": 300},
        env={**variables, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
    )
    if "<begin>" not in done.stderr:
        pytest.skip(f"no other user can run this Python here ({done.stderr.strip()[-200:]})")
    parts = [part.partition("<end>") for part in done.stderr.split("<begin>\n")[1:]]
    return [(code.split("\n")[0], told) for told, _, code in parts]


def one_sentence(outcome, *named):
    code, told = outcome
    assert code == "2", told
    lines = [line for line in told.splitlines() if line.startswith("litestage:")]
    assert len(lines) == 1, told
    assert "Traceback" not in told
    for text in named:
        assert text in lines[0]


def test_without_home_and_rights_each_mistake_is_one_sentence_and_a_place_to_write_is_all_it_takes(place):
    own = place / "own"
    own.mkdir()
    os.chown(own, NOBODY, NOBODY)
    (place / "store.sqlite").touch()
    no_home, closed_output, closed_store, no_store, works = ran(
        place,
        COMPARE,
        [*COMPARE, f"store={own}/store.sqlite", f"output={place}/out"],
        [*COMPARE, f"store={place}/store.sqlite", f"output={own}/out"],
        [*COMPARE, f"store={place}/new/store.sqlite", f"output={own}/out"],
        [*COMPARE, f"store={own}/store.sqlite", f"output={own}/out"],
    )
    one_sentence(no_home, "no home", "store=", "XDG_CACHE_HOME")
    one_sentence(closed_output, f"{place}/out", "rights")
    one_sentence(closed_store, f"{place}/store.sqlite", "store=")
    one_sentence(no_store, f"{place}/new/store.sqlite", "store=")
    assert works[0] == "0", works[1]
    assert json.loads((own / "out" / "results.json").read_text())["n"] == 4
    assert (own / "out" / "report.html").is_file()
