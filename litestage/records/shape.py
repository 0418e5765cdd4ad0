"""Kinds of values and parts that the files share, and how a file is held to what it must be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litestage.errors import LiteStageError
from litestage.reading import read_json

RESULTS, GRID, EXPERIMENT = "litestage.results/1", "litestage.grid/1", "litestage.experiment/1"
SEARCH, PROFILE = "litestage.search/1", "litestage.profile/1"
"""What a file says of itself under ``schema``."""
ABSENT: Any = None
"""Default of what may be absent but not null: readers ask only whether it is there."""
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Above = Annotated[float, Field(gt=0)]
Limits = Annotated[list[float], Field(min_length=2, max_length=2)]
Faster = Annotated[list[Above], Field(min_length=2, max_length=2)]
SubLayer = Annotated[str, Field(pattern=r"^(mhsa|ffn)\.\d{1,4}$")]


class Shape(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Named(Shape):
    name: str


class Hashed(Named):
    hash: str


class Tokens(Shape):
    tokens: Annotated[float, Field(ge=0)]


class Sped(Shape):
    speedup: Above = ABSENT
    speedup_ci95: Faster = ABSENT

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if (self.speedup is None) != (self.speedup_ci95 is None):
            raise ValueError("speedup and speedup_ci95 go together")
        return self


class Certified(Shape):
    """A certificate, as it stands in results.json and search.json (:class:`litestage.plan.Certificate`)."""

    plan: str
    model: str
    pipeline: str
    bound: Share
    on: str
    confidence: Share
    against: str
    task: str
    questions: Count
    lost: Count
    gained: Count
    p: Share


def check(content: Any, shape: type[BaseModel], path: Path) -> None:
    """Raises LiteStageError, naming the first part that does not fit, unless ``content`` is of the shape."""
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        wrong = "is missing" if first["type"] == "missing" else f"is {first['input']!r:.60}: {first['msg']}"
        if not where:
            where, wrong = "its content", first["msg"].removeprefix("Value error, ")
        raise LiteStageError(f"{path} is not whole: {where} {wrong}; run the command that wrote it again.") from None


def read_record(path: Path, shapes: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """A JSON file whose ``schema`` is one of these, and which holds what that one says.

    Raises:
        LiteStageError: a file that does not read, of another schema, or not whole.
    """
    content = read_json(path)
    schema = content.get("schema") if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(schema, str) or schema not in shapes:
        raise LiteStageError(f"{path} has the schema {schema!r:.80}, not {' or '.join(shapes)}.")
    check(content, shapes[schema], path)
    return content
