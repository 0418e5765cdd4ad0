"""Questions that one command answers. Adding one is one file here, with ``Options`` and a function ``run`` that finds
out, its defaults in ``conf/experiment`` and its name in ``EXPERIMENTS``.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from litestage.errors import LiteStageError, did_you_mean
from litestage.experiment.findings import Findings, write_findings

EXPERIMENTS = (
    *("sensitivity", "threshold", "adaptive-exit", "heuristics", "certificate", "noise", "search-cost", "importance"),
    *("transfer", "loops", "protocol", "calibration", "scale", "deep", "factorial"),
)
GRIDS = ("paper",)
"""Those that are a comparison over models, tasks and seeds: nothing but options in ``conf/experiment``."""


def find_experiment(name: str) -> ModuleType:
    """The file of the experiment called ``name``. Raises LiteStageError when there is none, with the nearest name."""
    if name not in EXPERIMENTS:
        raise LiteStageError(f"There is no experiment {name!r}; {did_you_mean(name, [*EXPERIMENTS, *GRIDS])}")
    return import_module(f"{__name__}.{name.replace('-', '_')}")


__all__ = ["EXPERIMENTS", "GRIDS", "Findings", "find_experiment", "write_findings"]
