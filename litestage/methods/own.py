"""A method of one's own: a Python file with ``plan(setting) -> {stage: StagePlan}``, named like ``mine.py:8``."""

from __future__ import annotations

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

from litestage.errors import LiteStageError
from litestage.methods.setting import NotThisBudget, Setting
from litestage.plan import StagePlan


def is_file(method: str) -> bool:
    """Whether a method's name is that of a file."""
    return method.endswith(".py")


def own_method(file: str) -> Callable[[Setting], dict[str, StagePlan]]:
    """The method in a file, which is run as any Python file is.

    Raises:
        LiteStageError: no such file, one that Python cannot read, one without ``plan``, or, when it is called, a plan
            that is not one ``StagePlan`` for each of some stages.
    """
    path = Path(file)
    if not path.is_file():
        raise LiteStageError(f"There is no method {file!r}; correct the path, or take a method that is shipped.")
    source = path.read_bytes()
    version = hashlib.sha256(source).hexdigest()[:12]
    make = getattr(_run(file, source, version), "plan", None)
    if not callable(make):
        raise LiteStageError(f"{file} has no function plan(setting); see litestage/methods/uniform.py for one.")

    def plan(setting: Setting) -> dict[str, StagePlan]:
        with _told(file):
            stages = make(replace(setting, measurements=setting.measurements.of_version(version)))
        plans = stages.items() if isinstance(stages, dict) else [(None, None)]
        if not all(isinstance(name, str) and isinstance(stage, StagePlan) for name, stage in plans):
            raise LiteStageError(f"{file}: plan(setting) gave {stages!r:.80}; it gives {{stage: StagePlan(...), ...}}.")
        return stages

    return plan


@cache
def _run(file: str, source: bytes, version: str) -> ModuleType:
    """The file as a module: run once in a process, and again where it was edited."""
    module = ModuleType(f"litestage_method_{Path(file).stem}_{version}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look themselves up there
    with _told(file):
        exec(compile(source, file, "exec"), module.__dict__)
    return module


@contextmanager
def _told(file: str) -> Iterator[None]:
    """Turns whatever goes wrong in the file into one sentence with its line."""
    try:
        yield
    except NotThisBudget:
        raise
    except LiteStageError as error:
        raise LiteStageError(f"{file}: {error}") from None
    except SyntaxError as error:
        raise LiteStageError(f"{file}, line {error.lineno}: {error.msg}; correct the file.") from None
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where, said = f", line {lines[-1]}" if lines else "", " ".join(str(error).split())
        raise LiteStageError(f"{file}{where}: {type(error).__name__}: {said}; correct the file.") from error
