"""What a search leaves behind: the plan, and every candidate with what became of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from litestage.plan import save_plan
from litestage.search.pareto import frontier
from litestage.search.problem import SearchResult


def write_search(found: SearchResult, folder: Path) -> None:
    """Writes plan.yaml and search.json; the frontier tells the fastest plan at any accuracy one is ready to lose."""
    save_plan(found.plan, folder / "plan.yaml")
    content = {
        "schema": "litestage.search/1",
        "plan": found.plan.hash,
        "met": found.met,
        "full": asdict(found.full),
        "chosen": asdict(found.chosen),
        "frontier": [asdict(candidate) for candidate in frontier([found.full, *found.candidates])],
        "candidates": [asdict(candidate) for candidate in found.candidates],
    }
    (folder / "search.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
