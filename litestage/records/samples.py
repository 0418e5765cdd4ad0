"""traces.jsonl and samples.jsonl, line by line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

from litestage.errors import LiteStageError
from litestage.reading import parse_json, read_lines
from litestage.records.shape import ABSENT, Above, Count, Named, Shape, Share, check


class _TracedStage(Named):
    texts: list[str]
    tokens: list[Count]
    stops: list[str]
    confidences: list[list[Share]] | None = None

    @model_validator(mode="after")
    def _rows(self) -> _TracedStage:
        if not len(self.texts) == len(self.tokens) == len(self.stops):
            raise ValueError("texts, tokens and stops are of different numbers of rows")
        return self


class _Traced(Shape):
    answer: str | None
    correct: bool | None
    stages: Annotated[list[_TracedStage], Field(min_length=1)]


class Asked(Shape):
    """A line of traces.jsonl."""

    id: str
    text: str
    options: list[str]
    answer: str | None
    why: str = ""
    traces: Annotated[dict[str, _Traced], Field(min_length=1)]

    @model_validator(mode="after")
    def _same(self) -> Asked:
        stages = list(self.shape().values())
        if any(names != stages[0] for names in stages):
            raise ValueError("its methods differ in stages")
        return self

    def shape(self) -> dict[str, list[str]]:
        """By method, the stages' names."""
        return {name: [stage.name for stage in trace.stages] for name, trace in self.traces.items()}


class Answer(Shape):
    """A line of samples.jsonl."""

    method: str
    id: str
    question: Annotated[str, Field(pattern=r"^\w+$")] = ABSENT
    correct: bool
    tokens: dict[str, Count]
    latency_s: Above | None = None


def read_asked(path: Path) -> list[dict[str, Any]]:
    """The lines of a traces.jsonl, all of the same methods and stages.

    Raises:
        LiteStageError: a file that does not read, or a line that is not whole.
    """
    lines = _lines(path, Asked)
    shapes = [Asked.model_validate(line).shape() for line in lines]
    if any(shape != shapes[0] for shape in shapes):
        raise LiteStageError(f"The lines of {path} differ in methods or stages; run the command that wrote it again.")
    return lines


def read_answers(path: Path) -> list[dict[str, Any]]:
    """The lines of a samples.jsonl. Raises LiteStageError as :func:`read_asked`."""
    return _lines(path, Answer)


def _lines(path: Path, shape: type[BaseModel]) -> list[dict[str, Any]]:
    lines = []
    for number, line in read_lines(path):
        try:
            lines.append(parse_json(line))
        except ValueError as error:
            raise LiteStageError(
                f"{path}, row {number} is not JSON lines ({error}); run the command that wrote it again."
            ) from None
        check(lines[-1], shape, Path(f"{path}, row {number}"))
    return lines
