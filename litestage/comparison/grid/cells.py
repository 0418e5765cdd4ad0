"""The comparisons of a grid: each with its own configuration and folder, and which of them are done already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from litestage.comparison.grid.made_of import made_of, model_files
from litestage.conf import available, find
from litestage.config import GridConfig, ModelConfig, RunConfig
from litestage.data import load_task
from litestage.errors import LiteStageError, did_you_mean
from litestage.overrides import configure
from litestage.reading import given_mapping, read_yaml
from litestage.records import RESULTS, Results, read_record

NOT_WHAT_IS_FOUND = ("output", "store", "tracking", "trainer")
"""Options that change where and how a comparison runs, not what it finds."""


@dataclass(frozen=True)
class Cell:
    """One comparison of a grid.

    Attributes:
        model, task: short names, unique in the grid.
        folder: where its results are, below the grid's folder.
        config: an ordinary comparison's.
    """

    model: str
    task: str
    seed: int
    folder: Path
    config: RunConfig = field(compare=False)

    @property
    def name(self) -> str:
        return f"{self.model}, {self.task}, seed {self.seed}"


def cells_of(config: RunConfig) -> list[Cell]:
    """The grid's comparisons, those of one model after each other.

    Raises:
        LiteStageError: a name that is not known, the same one twice, or two models or tasks of the same short name.
    """
    grid = config.grid
    models = [_model(name, config.model) for name in grid.model] or [config.model]
    tasks = grid.task or [config.task]
    seeds = grid.seed or [config.seed]
    for task in tasks:
        load_task(task)  # a wrong name is told before anything runs
    short_models = _short("model", [model.name for model in models])
    short_tasks = _short("task", [task.removesuffix(".yaml").removesuffix(".yml") for task in tasks])
    _short("seed", [str(seed) for seed in seeds])
    root = Path(config.output or "runs/grid")
    return [
        Cell(
            short_model,
            short_task,
            seed,
            folder := _folder(grid, short_model, short_task, seed),
            replace(config, model=model, task=task, seed=seed, grid=GridConfig(), output=str(root / folder)),
        )
        for model, short_model in zip(models, short_models, strict=True)
        for task, short_task in zip(tasks, short_tasks, strict=True)
        for seed in seeds
    ]


def _folder(grid: GridConfig, model: str, task: str, seed: int) -> Path:
    """A level for each of the lists that the grid has."""
    levels = (grid.model, model), (grid.task, task), (grid.seed, f"seed-{seed}")
    return Path(*(name for given, name in levels if given))


def results_before(cell: Cell, folder: Path) -> dict[str, Any] | None:
    """results.json in ``folder`` where this very comparison was done: same options, pipeline, questions and files."""
    try:
        results = read_record(folder / "results.json", {RESULTS: Results})
        before = given_mapping(read_yaml(folder / "config.yaml"), folder)
        if not all("mcnemar_p" in method for method in results["methods"]):
            return None  # the summary adjusts them
        config, task = cell.config, replace(load_task(cell.config.task), seed=cell.seed)
        pipeline = task.through(config.pipeline or config.model.pipeline, config.analyze, config.model.chat_template)
        same_pipeline = results["pipeline"]["hash"] == pipeline.with_limits(config.max_new_tokens).hash
        same = same_pipeline and _options(before) == _options(asdict(config))
        return results if same and results.get("made_of") == made_of(config, task, model_files(config.model)) else None
    except LiteStageError:
        return None


def _options(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in NOT_WHAT_IS_FOUND}


def _model(name: str, base: ModelConfig) -> ModelConfig:
    """What ``grid.model`` names: what its file in ``conf/model`` says wins over the command's own ``model`` options."""
    path = find("model", name)
    if path is not None:
        return configure(ModelConfig, [asdict(base), path], [])
    if "/" not in name and not Path(name).is_dir() and not name.endswith(".gguf"):
        raise LiteStageError(
            f"There is no model {name!r} (in grid.model); {did_you_mean(name, available('model'))} "
            "Or give a folder or a hub name."
        )
    return replace(base, name=name, pretrained=name)


def _short(kind: str, names: Sequence[str]) -> list[str]:
    """The last part of each name, by which its folder is called."""
    short = [Path(name).name if Path(name).name not in ("", "..") else Path(name).resolve().name for name in names]
    for one in short:
        clash = [name for name, other in zip(names, short, strict=True) if other == one]
        if len(clash) > 1:
            raise LiteStageError(
                f"grid.{kind} has {' and '.join(map(repr, clash))}, whose results would be in the same folder; "
                "rename one or leave it out."
            )
    return short
