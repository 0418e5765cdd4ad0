"""results.json: of a comparison, a baseline of it, a grid of several, and an experiment."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from litestage.records.shape import ABSENT, Above, Certified, Count, Hashed, Limits, Named, Shape, Share, Sped, Tokens


class Skipped(Shape):
    mhsa: Annotated[float, Field(ge=0)]
    ffn: Annotated[float, Field(ge=0)]


class _Judged(Named, Sped):
    plan: str
    accuracy: Share
    stages: Annotated[dict[str, Tokens], Field(min_length=1)]


class Judged(Shape):
    """What the gate needs of results.json, and of a baseline."""

    task: str
    split: str
    n: Annotated[int, Field(ge=1)]
    pipeline: Hashed
    model: Named
    environment: dict[str, Any]
    methods: Annotated[list[_Judged], Field(min_length=1)]

    @model_validator(mode="after")
    def _same(self) -> Judged:
        first = self.methods[0]
        for method in self.methods:
            if list(method.stages) != list(first.stages):
                raise ValueError(f"the stages of {method.name!r} are not those of {first.name!r}")
        if len({method.name for method in self.methods}) < len(self.methods):
            raise ValueError("a method stands there twice")
        return self


class _Stage(Tokens):
    skipped: Skipped
    stops: dict[str, Count]
    prefill_s: Annotated[float, Field(ge=0)] = ABSENT
    decode_s: Annotated[float, Field(ge=0)] = ABSENT


class _Seconds(Shape):
    mean: Above
    p95: Above


class _Method(_Judged):
    accuracy_drop: Annotated[float, Field(ge=-1, le=1)]
    accuracy_drop_ci95: Limits
    agreement: Share = ABSENT
    agreement_ci95: Limits = ABSENT
    certified: bool = ABSENT
    certificate: Certified | None = None
    same_text: Share = ABSENT
    method: str = ""
    budget: Count = 0
    mcnemar_p_holm: Share | None = None
    parse_failures: Count
    latency_s: _Seconds = ABSENT
    latency_n: Count = 0
    peak_cuda_mb: float = ABSENT
    stages: Annotated[dict[str, _Stage], Field(min_length=1)]  # type: ignore[assignment]
    note: str = ""
    model: str = ""

    @model_validator(mode="after")
    def _timed(self) -> _Method:
        if (self.agreement is None) != (self.agreement_ci95 is None):
            raise ValueError("an agreement has no interval, or an interval no agreement")
        if not (self.latency_s is None) == (self.speedup is None) == (not self.latency_n):
            raise ValueError("latency_s, latency_n and speedup go together")
        return self


class _Detectable(Shape):
    drop: float
    power: Share


class _Memory(Shape):
    peak_resident_mb: float
    covers: str


class Results(Judged):
    """results.json of ``litestage compare``."""

    latency_measured: str
    memory: _Memory | None = None
    minimum_detectable_drop: _Detectable | None = None
    made_of: dict[str, str] = ABSENT
    methods: Annotated[list[_Method], Field(min_length=1)]  # type: ignore[assignment]
    command: str = ""

    @model_validator(mode="after")
    def _counted(self) -> Results:
        first = self.methods[0]
        for method in self.methods:
            if method.parse_failures > self.n:
                raise ValueError(f"{method.name!r} has more parse failures than there are questions")
            if method.latency_s is not None and first.latency_s is None:
                raise ValueError(f"{method.name!r} was timed, {first.name!r} was not")
        return self


class Experiment(Shape):
    """results.json of ``litestage experiment``."""

    experiment: str
    task: str
    model: Named
    shows: Annotated[list[str], Field(min_length=1)]
    environment: dict[str, Any] = Field(default_factory=dict)
    rows: list[dict[str, Any]]
    command: str = ""

    @model_validator(mode="after")
    def _intervals(self) -> Experiment:
        for row in self.rows:
            for name, value in row.items():
                pair = isinstance(value, list) and len(value) == 2
                if name.endswith("_ci95") and not (pair and all(isinstance(end, (int, float)) for end in value)):
                    raise ValueError(f"{name} of a row is not an interval")
        return self


class _Cell(Shape):
    model: str
    task: str
    seed: int
    folder: str
    state: str
    error: str = ""


class _Row(Sped):
    model: str
    method: str
    accuracy: Share
    accuracy_drop: float
    accuracy_drop_ci95: Limits
    tokens: float
    mcnemar_p_holm: Share | None = None


class _TaskRow(_Row):
    task: str
    certified: list[str] = ABSENT


class _Average(_Row):
    tasks: list[str]


class Grid(Shape):
    """results.json of a grid."""

    models: list[str]
    tasks: list[str]
    seeds: list[int]
    cells: list[_Cell]
    averaged: str
    rows: list[_TaskRow]
    averages: list[_Average]
    environments: list[dict[str, Any]]
    command: str = ""
