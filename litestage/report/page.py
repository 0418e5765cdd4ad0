"""A report from run folders: one self-contained HTML page, its Markdown twin with the figures, and the results.

The page has no script and asks nothing of the network, and its policy forbids both: a text that escaped escaping would
still do nothing.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from litestage.report.answer import answer
from litestage.report.drawing import Picture, plain_text
from litestage.report.failures import failures
from litestage.report.palette import css_variables
from litestage.report.pictures import (
    accuracy_against_latency,
    along_the_generation,
    by_stage,
    importance_by_layer,
    over_budgets,
    search_pictures,
)
from litestage.report.runs import Run
from litestage.report.sample import LONGEST_SAMPLE, Asked, to_browse
from litestage.report.tables import Table, entropy_table, experiment_table, methods_table

FIGURES = "figures"
"""Folder of the Markdown twin's pictures."""
MARKDOWN_QUESTIONS = 3
"""How many questions' texts the Markdown twin holds; the page has them all."""


@dataclass(frozen=True)
class Section:
    """Everything that is shown of one run; ``key`` is unique in the report and fit for an HTML id."""

    key: str
    run: Run
    answer: str
    failures: Sequence[str]
    results: Sequence[Picture]
    search: Sequence[Picture]
    importance: Sequence[Picture]
    confidence: Sequence[Picture]
    methods: Table | None
    entropy: Table | None
    rows: Table | None
    plot: str | None
    asked: Sequence[Asked]
    commands: Sequence[str]
    environment: str

    @property
    def pictures(self) -> list[Picture]:
        return [*self.results, *self.search, *self.importance, *self.confidence]

    @property
    def parts(self) -> list[tuple[str, str]]:
        """What there is to jump to: the end of its id, and its name."""
        there = {
            ("methods", "methods"): self.methods,
            ("results", "accuracy, tokens, time"): self.results,
            ("search", "search"): self.search,
            ("importance", "sub-layers"): self.importance,
            ("confidence", "confidence"): self.confidence or self.entropy,
            ("asked", "what was written"): self.asked,
            ("again", "run it again"): self.commands,
        }
        return [part for part, content in there.items() if content]

    @property
    def compared(self) -> list[str]:
        """The methods beside full depth of which there are traces."""
        return [answered.method for answered in self.asked[0].others] if self.asked else []


def write_report(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Writes report.html, report.md and its figures into ``folder``; for several runs also results.json, all of theirs.

    Returns:
        The files that were written, figures apart.
    """
    with plain_text():
        many, room = len(runs) > 1, LONGEST_SAMPLE // max(1, len(runs))
        sections = [_section(f"run{at}", run, f"run{at}-" if many else "", room) for at, run in enumerate(runs, 1)]
        title = sections[0].run.title if len(runs) == 1 else f"{len(runs)} runs"
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
        written = [folder / "report.html", folder / "report.md"]
        light, dark = map(Markup, css_variables())
        most = max((len(section.compared) for section in sections), default=0)
        html = rendered("template.html", title=title, sections=sections, light=light, dark=dark, most_compared=most)
        written[0].write_text(html, encoding="utf-8")
        figures = {picture.name: picture.write_svg(folder / FIGURES) for s in sections for picture in s.pictures}
    for section in sections:
        if section.run.plot is not None:
            figures[section.key] = folder / FIGURES / f"{section.key}-plot.svg"
            figures[section.key].write_bytes(section.run.plot)
    links = {name: path.relative_to(folder).as_posix() for name, path in figures.items()}
    markdown = rendered("template.md", title=title, sections=sections, links=links, most=MARKDOWN_QUESTIONS)
    written[1].write_text(markdown, encoding="utf-8")
    if len(runs) > 1:
        written.append(folder / "results.json")
        written[2].write_text(json.dumps(collected(runs), indent=2) + "\n", encoding="utf-8")
    return written


def collected(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures behind a report of several runs (``litestage.report/1``)."""
    entries = [
        {"folder": run.name, "results": run.comparison or run.experiment, "search": run.search, "profile": run.profile}
        for run in runs
    ]
    return {
        "schema": "litestage.report/1",
        "runs": [{name: value for name, value in entry.items() if value is not None} for entry in entries],
    }


def pictures(run: Run) -> list[Picture]:
    """All of a run's pictures, for those who show them elsewhere."""
    with plain_text():
        return _section("run", run).pictures


def _section(key: str, run: Run, prefix: str = "", room: int = LONGEST_SAMPLE) -> Section:
    results, content = run.comparison, run.comparison or run.experiment or run.search or run.profile or {}
    against = [accuracy_against_latency(results), over_budgets(results)] if results else []
    importance = run.profile.get("importance") if run.profile else None

    def named(found: Sequence[Picture]) -> list[Picture]:
        return [replace(picture, name=f"{prefix}{picture.name}") for picture in found]

    return Section(
        key=key,
        run=run,
        answer=answer(run),
        failures=failures(run),
        results=named([*(picture for picture in against if picture), *(by_stage(results) if results else [])]),
        search=named(search_pictures(run.search) if run.search else []),
        importance=named([importance_by_layer(importance)] if importance else []),
        confidence=named(along_the_generation(run.traces)),
        methods=methods_table(results) if results else None,
        entropy=entropy_table(run.traces),
        rows=experiment_table(run.experiment) if run.experiment else None,
        plot=base64.b64encode(run.plot).decode() if run.plot else None,
        asked=to_browse(run.traces, room),
        commands=[content["command"]] if "command" in content else [],
        environment=json.dumps(content.get("environment", {}), indent=2),
    )


def rendered(template: str, **content: Any) -> str:
    """A page from the template of this name, with the style sheet at hand; what is not HTML is not escaped as such."""
    here = Path(__file__).parent
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=template.endswith(".html"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["inline"] = lambda picture: Markup(picture.svg)
    templates.filters |= {"plain": _plain_markdown, "fenced": _fenced}
    style = Markup((here / "style.css").read_text(encoding="utf-8"))
    return templates.get_template(template).render(style=style, **content)


def _plain_markdown(text: object) -> str:
    """Text that Markdown takes as it is, in a sentence or a table's cell."""
    marked = "".join(f"\\{sign}" if sign in "\\`*_[]<>|#~" else sign for sign in str(text))
    return " ".join(marked.split())


def _fenced(text: object) -> str:
    """Text as it is, between fences longer than any run of backticks in it."""
    longest = max(map(len, re.findall("`+", str(text))), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
