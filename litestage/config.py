"""The configuration of every command: the schema, its defaults, and what is loaded from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from litestage.conf import folder
from litestage.errors import LiteStageError, did_you_mean
from litestage.overrides import configure
from litestage.plan.plan import COMPENSATIONS

GROUPS = ("model", "engine")


@dataclass
class ModelConfig:
    """What to load: ``reference``, ``reference-half``, a folder, or a hub name."""

    name: str = "reference"
    pretrained: str = "reference"
    revision: str | None = None
    chat_template: bool = False


@dataclass
class EngineConfig:
    """Where and how to run. ``batch_size`` questions go together wherever latency is not being measured.

    ``path`` is ``fast``, or ``plain``: the slower, simpler one that the fast one is tested against.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 64
    path: str = "fast"


@dataclass
class TrainerConfig:
    """How many processes share the work, one per device; ``strategy`` is ``auto`` or ``ddp``, which it stands for."""

    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"


@dataclass
class SearchConfig:
    """How a plan is searched.

    Attributes:
        strategy: ``greedy``, the paper's; or ``pareto``, ours, on the fidelity ranking.
        ranking: for ``greedy``: cosine, ``global`` or ``per_stage``.
        compensation: for ``pareto``: what stands in for skipped sub-layers (none, scale, affine, lowrank:K, linear).
        max_budget: most sub-layers to skip in a stage; half of them unless given.
    """

    strategy: str = "greedy"
    ranking: str = "global"
    compensation: str = "none"
    max_accuracy_drop: float = 0.02
    max_budget: int | None = None
    calibration: int = 128
    exit: bool = False


@dataclass
class ExitConfig:
    """The exit rule that ``+exit`` stands for."""

    rule: str = "confidence"
    threshold: float = 0.5
    window: int = 5


@dataclass
class RunConfig:
    """Every option of ``profile``, ``search``, ``compare`` and ``demo``.

    Attributes:
        task: a task of ``conf/task`` or a path to one's own.
        pipeline: another pipeline than the task's own; a name of ``conf/pipeline`` or a path.
        analyze: how stages that fan out over options run: per_option, per_option_sequential or joint.
        max_new_tokens: limits by stage name, over the task's.
        plan: a plan file or shorthand, for ``profile`` and ``plan show``.
        methods: what ``compare`` compares. A bare ``uniform`` takes ``budget``.
        budget: sub-layers per stage for methods without their own; by default as many as the searched plan skips.
        questions: how many test questions are used for accuracy (default: all).
        latency_questions: how many of them are also run one at a time, by the clock.
        store: file of the result store.
        output: folder for the results.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    task: str = "menagerie"
    pipeline: str | None = None
    analyze: str | None = None
    max_new_tokens: dict[str, int] = field(default_factory=dict)
    engine: EngineConfig = field(default_factory=EngineConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    exit: ExitConfig = field(default_factory=ExitConfig)
    methods: list[str] = field(
        default_factory=lambda: ["full", "full+exit", "uniform", "cosine", "adaskip", "litestage", "litestage+exit"]
    )
    budget: int | None = None
    questions: int | None = None
    latency_questions: int = 60
    store: str | None = None
    output: str | None = None


Config = TypeVar("Config", bound=RunConfig)
STRATEGIES = ("greedy", "pareto")
RANKINGS = ("global", "per_stage")


def load_config(overrides: Sequence[str], preset: str | None = None) -> RunConfig:
    """The configuration with ``overrides``, over ``conf/<preset>.yaml`` where one is named.

    Raises:
        LiteStageError: an override that does not fit, or a value outside its range.
    """
    return load_schema(RunConfig, overrides, preset)


def load_schema(schema: type[Config], overrides: Sequence[str], preset: str | None = None) -> Config:
    """The same for a schema that adds options to :class:`RunConfig`."""
    layers: list[Path] = [folder("conf") / f"{preset}.yaml"] if preset else []
    config = configure(schema, layers, overrides, GROUPS)
    if any(override.startswith("model.pretrained=") for override in overrides) and not any(
        override.startswith(("model=", "model.name=")) for override in overrides
    ):
        config.model.name = config.model.pretrained
    for name, value, known in (
        ("search.strategy", config.search.strategy, STRATEGIES),
        ("search.ranking", config.search.ranking, RANKINGS),
    ):
        if value not in known:
            raise LiteStageError(f"{name} is {value!r}; {did_you_mean(value, known)}")
    if not COMPENSATIONS.fullmatch(config.search.compensation):
        raise LiteStageError(
            f"search.compensation is {config.search.compensation!r}; it is one of none, scale, affine, lowrank:K "
            "and linear."
        )
    for name, number, least in (
        ("search.calibration", config.search.calibration, 1),
        ("search.max_budget", config.search.max_budget, 0),
        ("budget", config.budget, 0),
        ("questions", config.questions, 1),
        ("latency_questions", config.latency_questions, 0),
        ("engine.batch_size", config.engine.batch_size, 1),
    ):
        if number is not None and number < least:
            raise LiteStageError(f"{name} is {number}; give at least {least}.")
    return config
