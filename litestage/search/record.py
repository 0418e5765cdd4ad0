"""What a search leaves behind: the plan, and every candidate with what became of it."""

from __future__ import annotations

import re
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from litestage.atomic import told, write_json
from litestage.environment import peak_memory
from litestage.errors import LiteStageError
from litestage.plan import save_plan
from litestage.records import SEARCH, Search, read_record
from litestage.search.candidate import SearchResult, frontier

FRONTIER = "frontier"
"""Folder of the frontier's plans, each named by its hash."""
_PLAN = re.compile(r"[0-9a-f]{16}\.(yaml|safetensors)")


def write_search(found: SearchResult, folder: Path, command: str | None = None) -> None:
    """Writes plan.yaml and search.json; the frontier tells the fastest plan at any accuracy one is ready to lose.

    Plans of an earlier search's frontier are taken away: they may have another bound's certificate.
    """
    clear_frontier(folder)
    save_plan(found.plan, folder / "plan.yaml")
    for name, plan in found.plans.items():
        save_plan(plan, folder / FRONTIER / f"{name}.yaml")
    walked = found.walk
    content = {
        "schema": SEARCH,
        "plan": found.plan.hash,
        "met": found.met,
        "on": found.on,
        **({"command": command} if command else {}),
        "memory": peak_memory(),
        "full": asdict(found.full),
        "chosen": asdict(found.chosen),
        "certified": found.plan.certificate is not None,
        **({"certificate": asdict(found.plan.certificate)} if found.plan.certificate else {}),
        "walk": {"questions": walked.questions, "steps": [asdict(step) for step in walked.steps]} if walked else None,
        "frontier": [asdict(candidate) for candidate in frontier([found.full, *found.candidates])],
        "candidates": [asdict(candidate) for candidate in found.candidates],
    }
    write_json(folder / "search.json", content)


def clear_frontier(folder: Path) -> None:
    """Takes away the frontier's plans; what else lies there stays."""
    with told(folder / FRONTIER):
        for file in (folder / FRONTIER).glob("*"):
            if _PLAN.fullmatch(file.name):
                file.unlink()


def best_within(folder: Path, max_accuracy_drop: float) -> tuple[Path, dict[str, Any]]:
    """The fastest plan on a finished search's frontier that stays within a drop, by the rule of the search itself.

    The upper limit of the drop on the calibration questions is what counts, as in :mod:`litestage.search.race`; nothing
    is run.

    Returns:
        The plan's file, and its candidate as it stands in search.json, with what the search bounded: ``on``.

    Raises:
        LiteStageError: no search in the folder, one that kept no plans, or no plan within the drop.
    """
    record = folder / "search.json"
    if not record.is_file():
        raise LiteStageError(f"There is no search.json in {folder}; give the folder that litestage search wrote.")
    if not isfinite(max_accuracy_drop):
        raise LiteStageError(f"The drop is {max_accuracy_drop}; give a fraction, e.g. 0.02.")
    search = read_record(record, {SEARCH: Search})
    candidates, on = search["frontier"], search.get("on", "accuracy")
    kept = [c for c in candidates if c.get("plan") and (folder / FRONTIER / f"{c['plan']}.yaml").is_file()]
    if not kept:
        raise LiteStageError(f"The search in {folder} kept no frontier of plans; search with search.strategy=pareto.")
    within = [c for c in kept if c["accuracy_drop_upper"] <= max_accuracy_drop]
    if not within:
        least = min(c["accuracy_drop_upper"] for c in kept)
        raise LiteStageError(
            f"No plan in {folder} is sure to {'lose' if on == 'accuracy' else 'change'} at most "
            f"{max_accuracy_drop:.1%}; the least is {least:.1%}. "
            "Allow more, or search with more calibration questions."
        )
    best = min(within, key=lambda candidate: candidate["latency_s"])
    return folder / FRONTIER / f"{best['plan']}.yaml", {**best, "on": on}
