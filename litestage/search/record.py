"""What a search leaves behind: the plan, and every candidate with what became of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from litestage.plan import save_plan
from litestage.search.problem import SearchResult


def write_search(found: SearchResult, folder: Path) -> None:
    """Writes plan.yaml and search.json."""
    save_plan(found.plan, folder / "plan.yaml")
    content = {
        "schema": "litestage.search/1",
        "plan": found.plan.hash,
        "met": found.met,
        "full": asdict(found.full),
        "chosen": asdict(found.chosen),
        "candidates": [asdict(candidate) for candidate in found.candidates],
    }
    (folder / "search.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
