"""Fills the report's template. All text is escaped; the page asks nothing of the network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from litestage.report.plots import accuracy_against_latency, plans_tried, search_by_stage
from litestage.search import SearchResult


def write_report(results: Mapping[str, Any], found: SearchResult | None, path: Path) -> None:
    """Writes the comparison as one HTML page."""
    template = (Path(__file__).parent / "template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template).render(
        results=results,
        sentences=in_two_sentences(results),
        stages=list(results["methods"][0]["stages"]),
        scatter=Markup(accuracy_against_latency(results)),
        search=_search(found),
        environment=json.dumps(results["environment"], indent=2),
    )
    path.write_text(page, encoding="utf-8")


def _search(found: SearchResult | None) -> dict[str, str] | None:
    """The search's picture and what it shows."""
    if found is None or not found.candidates:
        return None
    if found.plan.provenance.get("strategy") == "greedy":
        return {
            "svg": Markup(search_by_stage(found)),
            "caption": "The search, stage by stage: every budget tried on the calibration questions, chosen dashed.",
        }
    return {
        "svg": Markup(plans_tried(found)),
        "caption": "The search: every plan tried on the calibration questions; hollow ones were dropped early, "
        "the chosen one is orange.",
    }


def in_two_sentences(results: Mapping[str, Any]) -> str:
    """What the comparison found, for the best method that is ours."""
    full = results["methods"][0]
    first = f"Full depth answers {full['accuracy']:.1%} of {results['n']} questions right"
    first += f", in {full['latency_s']['mean'] * 1000:.0f} ms each." if "latency_s" in full else "."
    ours = [m for m in results["methods"] if m["name"].startswith("litestage") and "latency_s" in m]
    if not ours:
        return first
    best = max(ours, key=lambda method: method["speedup"])
    fast, slow = best["speedup_ci95"]
    low, high = best["accuracy_drop_ci95"]
    return (
        f"{first} {best['name']} is {best['speedup']:.2f} times as fast (95 % interval {fast:.2f} to {slow:.2f}) "
        f"and loses {best['accuracy_drop'] * 100:.1f} points of accuracy "
        f"(95 % interval {low * 100:.1f} to {high * 100:.1f})."
    )
