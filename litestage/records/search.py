"""search.json and profile.json."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator

from litestage.errors import LiteStageError
from litestage.plan import ExitRule
from litestage.records.shape import ABSENT, Certified, Count, Shape, Share, SubLayer


class _Exit(Shape):
    model_config = ConfigDict(extra="allow")

    rule: str

    @model_validator(mode="after")
    def _known(self) -> _Exit:
        try:
            ExitRule(**self.model_dump())
        except LiteStageError as error:
            raise ValueError(str(error)) from None
        return self


class _Candidate(Shape):
    budgets: Annotated[dict[str, Count], Field(min_length=1)]
    accuracy: Share
    accuracy_drop: float
    latency_s: float
    stage_latency_s: dict[str, float]
    tokens: float
    questions: Count
    plan: str = ""
    accuracy_drop_upper: float = 0.0
    agreement: Share = 1.0
    exit: _Exit | None = None
    verdict: str = ""


class Search(Shape):
    """search.json."""

    met: bool
    on: Literal["accuracy", "agreement"] = "accuracy"
    full: _Candidate
    chosen: _Candidate
    frontier: list[_Candidate]
    candidates: list[_Candidate]
    certified: bool = ABSENT
    certificate: Certified | None = None
    command: str = ""

    @model_validator(mode="after")
    def _same(self) -> Search:
        for candidate in (self.full, self.chosen, *self.frontier, *self.candidates):
            if not set(candidate.budgets) == set(candidate.stage_latency_s) == set(self.full.budgets):
                raise ValueError("a candidate's stages are not those of full depth")
        return self


class _Importance(Shape):
    cosine: Annotated[dict[str, Annotated[dict[SubLayer, float], Field(min_length=1)]], Field(min_length=1)]
    questions: Count

    @model_validator(mode="after")
    def _same(self) -> _Importance:
        if len({frozenset(row) for row in self.cosine.values()}) > 1:
            raise ValueError("the sub-layers are not the same in every stage")
        return self


class Profile(Shape):
    """profile.json."""

    importance: _Importance
    command: str = ""
