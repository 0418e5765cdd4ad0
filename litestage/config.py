"""The configuration of every command: the schema, its defaults, and what is loaded from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from litestage.atomic import write_text
from litestage.conf import find, folder
from litestage.errors import LiteStageError, all_known, at_least, one_of
from litestage.methods import METHODS
from litestage.overrides import configure
from litestage.plan.certificate import BOUNDED
from litestage.plan.exit import SIMPLE_RULES, ExitRule
from litestage.plan.stage import COMPENSATIONS, PHASES
from litestage.search import STRATEGIES

GROUPS = ("model", "engine")


@dataclass
class ModelConfig:
    """What to load.

    Attributes:
        name: what results call it.
        pretrained: ``reference``, ``smollm2-135m``, a folder, a GGUF file, or a hub name.
        revision: hub branch, tag or commit.
        adapter: folder or hub name of a PEFT adapter, merged at loading.
        chat_template: wrap every stage's prompt in the tokenizer's chat template.
        pipeline: the model's own pipeline, used for every task unless the command names one.
        generation_config: ``ignore`` says which of the model's generation settings are left out, ``refuse`` stops.
    """

    name: str = "reference"
    pretrained: str = "reference"
    revision: str | None = None
    adapter: str | None = None
    chat_template: bool = False
    pipeline: str | None = None
    generation_config: str = "ignore"


@dataclass
class EngineConfig:
    """Where and how to run. ``batch_size`` questions go together wherever latency is not being measured.

    ``path`` is ``host``, which writes out every decode step; ``static``, which repeats recorded ones
    (:mod:`litestage.engine.graph.runner`); or ``fast``: static on CUDA, host elsewhere. ``compile`` says whether static
    steps are compiled: ``auto`` (on CUDA), ``on`` or ``off``. ``weights`` is ``auto``, in ``dtype``, or ``int8``: in 8
    bits, on a CPU and in bfloat16.
    """

    device: str = "auto"
    dtype: str = "auto"
    weights: str = "auto"
    batch_size: int = 64
    path: str = "fast"
    compile: str = "auto"


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
        strategy: ``greedy``, the paper's; ``pareto``, ours; or ``one_budget``, the same for all stages.
        ranking: ``global`` or ``per_stage`` cosine, or ``fidelity``; by default the paper's for ``greedy``, else ours.
        compensation: for ``pareto``: what may stand in for skipped sub-layers: none, auto (the search chooses), or a
            form: scale, affine, lowrank:K, linear, block.
        phase: ``both`` skips in prefill and decode; ``decode`` runs prompts at full depth, and the plan found has a
            prefix cache, as stages can then share them.
        max_accuracy_drop: the bound: as a fraction of all questions, how much less accurate than full depth a plan may
            be; with ``bound=agreement``, how many answers may differ.
        confidence: of the certificate: the least probability that the plan chosen keeps the bound.
        bound: ``accuracy``, or ``agreement``: answers that are not full depth's, right or wrong.
        max_budget: most sub-layers to skip in a stage; half of them unless given.
        calibration: how many questions of the calibration split are used.
        confirm: how many of these, the last, are kept from the search and certify what it found: unless given, up to
            four fifths of them (:mod:`litestage.search.enough`). With 0 the plan has no certificate.
        exit: have the exit rule on during the search.
        against: what a plan's drop is measured against: ``full`` depth, or ``full+exit``, which leaves out what the
            exit rule itself loses.
        draft: ``lookup`` or ``self``: drafts for the plan found, in the stages where they pay by the clock; ``none``.
        try_exits: for ``pareto``: try exit rules on the best plan.
        exit_rules: which: names of :mod:`litestage.plan.exit`; a rule brings along the parameters that are tried.
        finalists: for ``pareto``: how many of the fastest plans are timed by the clock.
        timed_questions: on how many calibration questions.
        reuse: whether generations are found again; without, every candidate is generated anew.
    """

    strategy: str = "greedy"
    ranking: str | None = None
    compensation: str = "none"
    phase: str = "both"
    max_accuracy_drop: float = 0.02
    confidence: float = 0.9
    bound: str = "accuracy"
    max_budget: int | None = None
    calibration: int = 256
    confirm: int | None = None
    exit: bool = False
    against: str = "full"
    draft: str = "none"
    try_exits: bool = True
    exit_rules: list[str] = field(default_factory=lambda: ["confidence"])
    finalists: int = 3
    timed_questions: int = 8
    reuse: bool = True


@dataclass
class GridConfig:
    """Comparisons that ``compare`` makes in one command: every model with every task and every seed.

    An empty list is the command's own ``model``, ``task`` or ``seed``.

    Attributes:
        model: names of ``conf/model``, folders or hub names.
        task: names of ``conf/task`` or YAML files.
        seed: see :class:`RunConfig`.
    """

    model: list[str] = field(default_factory=list)
    task: list[str] = field(default_factory=list)
    seed: list[int] = field(default_factory=list)

    @property
    def given(self) -> bool:
        return bool(self.model or self.task or self.seed)


@dataclass
class RunConfig:
    """Every option of ``profile``, ``search``, ``compare`` and ``demo``.

    Attributes:
        task: a task of ``conf/task`` or a path to one's own.
        pipeline: another pipeline than the task's own; a name of ``conf/pipeline`` or a path.
        analyze: how stages that fan out over options run: per_option, per_option_sequential or joint.
        max_new_tokens: limits by stage name, over the task's.
        exit: the exit rule that ``+exit`` stands for: ``rule``, one of :mod:`litestage.plan.exit`, and its parameters.
        methods: what ``compare`` compares. A bare ``uniform`` takes ``budget``; ``uniform:best`` the fastest budget
            within ``search.max_accuracy_drop`` on the calibration split.
        variants: other ways of searching to compare, by name: each a ``search`` with some options changed.
        other_models: by name, each as in ``model.pretrained``: other models to compare. ``full-NAME`` is its row at
            full depth, ``litestage-NAME`` under a plan that is searched for it.
        budget: sub-layers per stage for methods without their own; by default as many as the searched plan skips.
        questions: how many test questions are used for accuracy (default: all).
        latency_questions: how many of them are also run one at a time, by the clock.
        seed: which calibration questions are used: 0 the split's first ``search.calibration``, any other number a draw
            of its own; and how ``random`` draws. Nothing else depends on chance: decoding is greedy, and test
            questions, bootstraps and the order of what is timed are always the same.
        grid: several models, tasks and seeds, for ``compare``.
        store: file of the result store.
        output: folder for the results.
        tracking: ``wandb`` also logs the run to Weights & Biases, whose own variables (``WANDB_PROJECT``, ...) apply.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    task: str = "menagerie"
    pipeline: str | None = None
    analyze: str | None = None
    max_new_tokens: dict[str, int] = field(default_factory=dict)
    engine: EngineConfig = field(default_factory=EngineConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    exit: dict[str, Any] = field(default_factory=dict)
    methods: list[str] = field(
        default_factory=lambda: ["full", "full+exit", "uniform", "cosine", "adaskip", "litestage", "litestage+exit"]
    )
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    other_models: dict[str, str] = field(default_factory=dict)
    budget: int | None = None
    questions: int | None = None
    latency_questions: int = 60
    seed: int = 0
    grid: GridConfig = field(default_factory=GridConfig)
    store: str | None = None
    output: str | None = None
    tracking: str = "none"


Config = TypeVar("Config", bound=RunConfig)


def pipeline_of_model(name: str) -> str | None:
    """The pipeline that ``conf/model/<name>.yaml`` names, if there is such a file and it names one."""
    path = find("model", name) if not name.endswith((".yaml", ".yml")) else None
    return None if path is None else configure(ModelConfig, [path], []).pipeline


TRACKERS = ("none", "wandb")
RANKINGS = ("global", "per_stage", "fidelity")
AGAINST = ("full", "full+exit")
DRAFTS = ("none", "lookup", "self")


def load_config(overrides: Sequence[str], preset: str | Path | None = None) -> RunConfig:
    """The configuration with ``overrides``, over ``conf/<preset>.yaml`` or a file where one is named.

    Raises:
        LiteStageError: an override that does not fit, or a value outside its range.
    """
    return load_schema(RunConfig, overrides, preset)


def load_schema(schema: type[Config], overrides: Sequence[str], preset: str | Path | None = None) -> Config:
    """The same for a schema that adds options to :class:`RunConfig`."""
    layers = [preset if isinstance(preset, Path) else folder("conf") / f"{preset}.yaml"] if preset else []
    config = configure(schema, layers, overrides, GROUPS)
    given = {override.split("=")[0] for override in overrides}
    unnamed = config.model.name == ModelConfig.name != config.model.pretrained and "model.name" not in given
    if unnamed or ("model.pretrained" in given and not given & {"model", "model.name"}):
        config.model.name = config.model.pretrained
    if config.model.adapter and not any(override.startswith("model.name=") for override in overrides):
        config.model.name += f"+{Path(config.model.adapter).name}"  # another model than without
    one_of("tracking", config.tracking, TRACKERS)
    try:
        config.exit = ExitRule(**config.exit).to_dict()
    except LiteStageError as error:
        raise LiteStageError(f"exit: {error}") from None
    _check_search(config.search, "search")
    for name in config.variants:
        if name in ("litestage", *METHODS):
            raise LiteStageError(f"variants.{name}: {name!r} is a method already; give the variant another name.")
        _check_search(variant(config, name), f"variants.{name}")
    at_least(0, budget=config.budget, latency_questions=config.latency_questions, seed=config.seed)
    at_least(0, **{"grid.seed": min(config.grid.seed, default=0)})
    at_least(1, questions=config.questions, **{"engine.batch_size": config.engine.batch_size})
    return config


def save_config(config: RunConfig, folder: Path) -> None:
    """Writes the resolved configuration, every option of it, as ``config.yaml``."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config)))


def variant(config: RunConfig, name: str) -> SearchConfig:
    """The search that a variant's name stands for.

    Raises:
        LiteStageError: an option that a search does not have, or of another type.
    """
    try:
        return configure(SearchConfig, [asdict(config.search), config.variants[name]], [])
    except LiteStageError as error:
        raise LiteStageError(f"variants.{name}: {error}") from None


def _check_search(search: SearchConfig, where: str) -> None:
    for name, value, known in (
        ("strategy", search.strategy, STRATEGIES),
        ("ranking", search.ranking, RANKINGS),
        ("phase", search.phase, PHASES),
        ("against", search.against, AGAINST),
        ("bound", search.bound, BOUNDED),
        ("draft", search.draft, DRAFTS),
    ):
        if value is not None:
            one_of(f"{where}.{name}", value, known)
    all_known(f"{where}.exit_rules has", search.exit_rules, SIMPLE_RULES)
    if search.compensation not in ("auto", "block") and not COMPENSATIONS.fullmatch(search.compensation):
        raise LiteStageError(
            f"{where}.compensation is {search.compensation!r}; it is one of none, auto, scale, affine, lowrank:K, "
            "linear and block."
        )
    if not isfinite(search.max_accuracy_drop) or search.max_accuracy_drop > 1:
        raise LiteStageError(f"{where}.max_accuracy_drop is {search.max_accuracy_drop}; give a fraction, e.g. 0.02.")
    if not 0 < search.confidence < 1:
        raise LiteStageError(
            f"{where}.confidence is {search.confidence}; give a probability between 0 and 1, e.g. 0.9."
        )
    if search.confirm is not None and search.confirm >= search.calibration:
        raise LiteStageError(
            f"{where}.confirm is {search.confirm} of {where}.calibration={search.calibration} questions, which leaves "
            "none to search with; give fewer, or raise the calibration."
        )
    if search.against == "full+exit" and not search.exit:
        raise LiteStageError(
            f"{where}.against is 'full+exit', but the search has no exit rule on; give {where}.exit=true too."
        )
    at_least(1, **{f"{where}.calibration": search.calibration})
    for name in ("confirm", "max_budget", "finalists", "timed_questions"):
        at_least(0, **{f"{where}.{name}": getattr(search, name)})
