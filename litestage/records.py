"""What the files that commands leave must hold for those who read them: reports, the gate, trackers, ``plan best``.

Only what a reader needs is asked for, so that an older file, or one with more in it, is read too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from litestage.errors import LiteStageError
from litestage.plan import ExitRule
from litestage.reading import parse_json, read_json, read_lines

_ABSENT: Any = None
"""Default of what may be absent but not null: readers ask only whether it is there."""
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Above = Annotated[float, Field(gt=0)]
Limits = Annotated[list[float], Field(min_length=2, max_length=2)]
Faster = Annotated[list[Above], Field(min_length=2, max_length=2)]
SubLayer = Annotated[str, Field(pattern=r"^(mhsa|ffn)\.\d{1,4}$")]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Named(_Shape):
    name: str


class _Hashed(_Named):
    hash: str


class _Skipped(_Shape):
    mhsa: Annotated[float, Field(ge=0)]
    ffn: Annotated[float, Field(ge=0)]


class _Tokens(_Shape):
    tokens: Annotated[float, Field(ge=0)]


class _Sped(_Shape):
    speedup: Above = _ABSENT
    speedup_ci95: Faster = _ABSENT

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if (self.speedup is None) != (self.speedup_ci95 is None):
            raise ValueError("speedup and speedup_ci95 go together")
        return self


class _Judged(_Named, _Sped):
    plan: str
    accuracy: Share
    stages: Annotated[dict[str, _Tokens], Field(min_length=1)]


class Judged(_Shape):
    """What the gate needs of results.json, and of a baseline."""

    task: str
    split: str
    n: Annotated[int, Field(ge=1)]
    pipeline: _Hashed
    model: _Named
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


class _Stage(_Tokens):
    skipped: _Skipped
    stops: dict[str, Count]
    prefill_s: Annotated[float, Field(ge=0)] = _ABSENT
    decode_s: Annotated[float, Field(ge=0)] = _ABSENT


class _Seconds(_Shape):
    mean: Above
    p95: Above


class Certified(_Shape):
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


class _Method(_Judged):
    accuracy_drop: Annotated[float, Field(ge=-1, le=1)]
    accuracy_drop_ci95: Limits
    agreement: Share = _ABSENT
    agreement_ci95: Limits = _ABSENT
    certified: bool = _ABSENT
    certificate: Certified | None = None
    same_text: Share = _ABSENT
    method: str = ""
    budget: Count = 0
    mcnemar_p_holm: Share | None = None
    parse_failures: Count
    latency_s: _Seconds = _ABSENT
    latency_n: Count = 0
    peak_cuda_mb: float = _ABSENT
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


class _Detectable(_Shape):
    drop: float
    power: Share


class _Memory(_Shape):
    peak_resident_mb: float
    covers: str


class Results(Judged):
    """results.json of ``litestage compare``."""

    latency_measured: str
    memory: _Memory | None = None
    minimum_detectable_drop: _Detectable | None = None
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


class Experiment(_Shape):
    """results.json of ``litestage experiment``."""

    experiment: str
    task: str
    model: _Named
    shows: Annotated[list[str], Field(min_length=1)]
    environment: dict[str, Any] = {}
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


class _Exit(_Shape):
    model_config = ConfigDict(extra="allow")

    rule: str

    @model_validator(mode="after")
    def _known(self) -> _Exit:
        try:
            ExitRule(**self.model_dump())
        except LiteStageError as error:
            raise ValueError(str(error)) from None
        return self


class _Candidate(_Shape):
    budgets: Annotated[dict[str, Count], Field(min_length=1)]
    accuracy: Share
    accuracy_drop: float
    latency_s: float
    stage_latency_s: dict[str, float]
    tokens: float
    questions: Count
    plan: str = ""
    accuracy_drop_upper: float = 0.0
    exit: _Exit | None = None
    verdict: str = ""


class Search(_Shape):
    """search.json."""

    met: bool
    full: _Candidate
    chosen: _Candidate
    frontier: list[_Candidate]
    candidates: list[_Candidate]
    certified: bool = _ABSENT
    certificate: Certified | None = None
    command: str = ""

    @model_validator(mode="after")
    def _same(self) -> Search:
        for candidate in (self.full, self.chosen, *self.frontier, *self.candidates):
            if not set(candidate.budgets) == set(candidate.stage_latency_s) == set(self.full.budgets):
                raise ValueError("a candidate's stages are not those of full depth")
        return self


class _Importance(_Shape):
    cosine: Annotated[dict[str, Annotated[dict[SubLayer, float], Field(min_length=1)]], Field(min_length=1)]
    questions: Count

    @model_validator(mode="after")
    def _same(self) -> _Importance:
        if len({frozenset(row) for row in self.cosine.values()}) > 1:
            raise ValueError("the sub-layers are not the same in every stage")
        return self


class Profile(_Shape):
    """profile.json."""

    importance: _Importance
    command: str = ""


class _TracedStage(_Named):
    texts: list[str]
    tokens: list[Count]
    stops: list[str]
    confidences: list[list[Share]] | None = None

    @model_validator(mode="after")
    def _rows(self) -> _TracedStage:
        if not len(self.texts) == len(self.tokens) == len(self.stops):
            raise ValueError("texts, tokens and stops are of different numbers of rows")
        return self


class _Traced(_Shape):
    answer: str | None
    correct: bool | None
    stages: Annotated[list[_TracedStage], Field(min_length=1)]


class Asked(_Shape):
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


class Answer(_Shape):
    """A line of samples.jsonl."""

    method: str
    id: str
    correct: bool
    tokens: dict[str, Count]
    latency_s: Above | None = None


class _Cell(_Shape):
    model: str
    task: str
    seed: int
    folder: str
    state: str
    error: str = ""


class _Row(_Sped):
    model: str
    method: str
    accuracy: Share
    accuracy_drop: float
    accuracy_drop_ci95: Limits
    tokens: float
    mcnemar_p_holm: Share | None = None


class _TaskRow(_Row):
    task: str
    certified: list[str] = []


class _Average(_Row):
    tasks: list[str]


class Grid(_Shape):
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


def same_stages(path: Path, tokens: Sequence[Mapping[str, int]], stages: Sequence[str]) -> None:
    """Raises LiteStageError unless each question's tokens are there for every stage."""
    for one in tokens:
        missing = next((stage for stage in stages if stage not in one), None)
        if missing is not None:
            raise LiteStageError(f"The samples of {str(path)!r} lack the tokens of {missing!r}; run it again.")
