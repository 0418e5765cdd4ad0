"""profile.json: what a session has measured of its model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from litestage.atomic import write_json
from litestage.environment import environment
from litestage.profile import Importance
from litestage.records import PROFILE
from litestage.session.workbench import Workbench


def profile_of(bench: Workbench, importance: Importance) -> dict[str, Any]:
    """The importance as plain data, with what it was measured on."""
    return {
        "schema": PROFILE,
        "model": {"name": bench.config.model.name, "fingerprint": bench.session.loaded.fingerprint},
        "pipeline": {"name": bench.pipeline.name, "hash": bench.pipeline.hash},
        "environment": environment(bench.session.engine),
        "importance": importance.to_dict(),
    }


def write_known_importance(bench: Workbench, folder: Path) -> None:
    """Writes profile.json with the importance that a method here was made from, if any was; nothing is measured."""
    importance = bench.session.known_importance(bench.calibration(), bench.pipeline)
    if importance is not None:
        write_json(folder / "profile.json", profile_of(bench, importance))
