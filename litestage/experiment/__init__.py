"""Questions that one command answers. Adding one is one file here, its defaults in ``conf/experiment`` and one line
in ``EXPERIMENTS``.
"""

from __future__ import annotations

from typing import Any

from litestage.errors import LiteStageError, did_you_mean
from litestage.experiment import (
    adaptive_exit,
    calibration,
    certificate,
    deep,
    factorial,
    heuristics,
    importance,
    loops,
    noise,
    protocol,
    scale,
    search_cost,
    sensitivity,
    threshold,
    transfer,
)
from litestage.experiment.findings import Experiment, Findings, write_findings

EXPERIMENTS: dict[str, Experiment[Any]] = {
    module.__name__.rpartition(".")[2].replace("_", "-"): module.EXPERIMENT
    for module in (
        sensitivity,
        threshold,
        adaptive_exit,
        heuristics,
        certificate,
        noise,
        search_cost,
        importance,
        transfer,
        loops,
        protocol,
        calibration,
        scale,
        deep,
        factorial,
    )
}
GRIDS = ("paper",)
"""Those that are a comparison over models, tasks and seeds: nothing but options in ``conf/experiment``."""


def find_experiment(name: str) -> Experiment[Any]:
    """The experiment called ``name``. Raises LiteStageError when there is none, with the nearest name."""
    if name not in EXPERIMENTS:
        raise LiteStageError(f"There is no experiment {name!r}; {did_you_mean(name, [*EXPERIMENTS, *GRIDS])}")
    return EXPERIMENTS[name]


__all__ = ["EXPERIMENTS", "GRIDS", "Experiment", "Findings", "find_experiment", "write_findings"]
