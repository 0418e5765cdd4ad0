"""What README shows of ``reports/``: every figure in it is written by ``make readme``, none by hand.

Between ``<!-- NAME -->`` and ``<!-- end NAME -->`` of a Markdown file stands what ``EXCERPTS[NAME]`` says of the
committed results: ``python -m litestage.report.excerpt README.md`` writes it anew, with the picture at its top.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from litestage.cli import run_alone
from litestage.errors import LiteStageError
from litestage.reading import read_json
from litestage.report.tables import markdown, methods_cells

REPORTS = Path("reports")
PICTURE = REPORTS / "overview.svg"
ROWS = {
    "full": "full depth",
    "litestage": "every stage its own plan; linear maps may stand in for what is skipped",
    "litestage-bare": "the same search, nothing in place of what is skipped",
    "litestage-bare-one-budget": "and the same budget in every stage",
    "litestage-paper": "the paper's own search",
    "finercut": "sub-layers by what the next token's distribution loses, the same in every stage",
    "ffn-only": "feed-forwards alone, by cosine, the same in every stage",
    "shortgpt": "whole layers, the same in every stage",
    "cosine": "the paper's ranking alone, the same in every stage",
    "adaskip": "the same with AdaSkip's scaling",
    "uniform": "layers at even distances",
    "full-half": "another model: retrained at half the depth",
}
"""The rows of the comparison that README shows, and what they are."""
FROM_THE_REPORT = ("accuracy", "drop, points [95 %]", "same answers [95 %]", "certified", "ms")
"""Columns that README has as the report has them."""
REAL = {"obqa": "OpenBookQA", "csqa": "CommonsenseQA", "strategyqa": "StrategyQA"}
"""The real tasks, in the order in which README has them."""


def real(reports: Path) -> str:
    """A table of all methods for every real task that was compared; what they are stands in README's text."""
    found = {name: reports / "real" / task / "results.json" for task, name in REAL.items()}
    tables = [f"**{name}**\n\n{_table(read_json(path), notes=False)}" for name, path in found.items() if path.is_file()]
    return "\n\n".join(tables)


def comparison(reports: Path) -> str:
    """A table of some methods of the menagerie comparison, and under what conditions it was made."""
    results = read_json(reports / "menagerie" / "results.json")
    return _table({**results, "methods": shown(results)})


def _table(results: Mapping[str, Any], notes: bool = True) -> str:
    methods, made, found = results["methods"], results["environment"], methods_cells(results)
    columns = {
        "method": [f"`{name}`" for name in found["method"]],
        **{name: found[name] for name in FROM_THE_REPORT if name in found},
        "times as fast [95 %]": [cell.replace("x", "") for cell in found["speed-up [95 %]"]],
        f"skipped: {' / '.join(methods[0]['stages'])}": [
            " / ".join(f"{sum(stage['skipped'].values()):g}" for stage in method["stages"].values())
            for method in methods
        ],
        **({"": list(map(_note, methods))} if notes else {}),
    }
    memory, threads = results["memory"]["peak_resident_mb"], "threads" if made["threads"] > 1 else "thread"
    return (
        f"{markdown(list(columns), zip(*columns.values(), strict=True), set(columns) - {'method', ''})}\n\n"
        f"Accuracy over {results['n']} test questions that no search saw; latency over {methods[0]['latency_n']} of "
        f"them, {results['latency_measured']}; {made['threads']} {threads} of {made['hardware']}, peak memory "
        f"{memory:.0f} MB for the whole command. Brackets: 95 % intervals, paired over questions. "
        f"`{results['command']}`"
    )


def _note(method: Mapping[str, Any]) -> str:
    note = str(method.get("note", ""))
    return note if note.startswith("no plan") else ROWS.get(method["name"], note)


def experiments(reports: Path) -> str:
    """What each committed experiment shows: its two sentences, its plot, its command."""
    found = {path.parent.name: read_json(path) for path in sorted(reports.glob("*/results.json"))}
    return "\n\n".join(
        f"### {_title(folder, experiment)}\n\n{' '.join(experiment['shows'])}\n\n"
        f"![Plot of {experiment['experiment']}](../reports/{folder}/plot.svg)\n\n`{experiment['command']}`"
        for folder, experiment in found.items()
        if "experiment" in experiment
    )


def _title(folder: str, experiment: Mapping[str, Any]) -> str:
    """The experiment's name; and where it was committed more than once, of what this one is."""
    name = experiment["experiment"]
    task, model = experiment["task"].removesuffix("_multistage"), experiment["model"]["name"]
    return name if folder == name else f"{name} on {task}, model {model}"


def bench(reports: Path) -> str:
    """The measured rows that have a bar."""
    rows = [row for row in read_json(reports / "bench" / "bench.json")["rows"] if row["ratio_ci95"] and row["bar"]]
    cells = [
        [
            *(row[name] for name in ("model", "what", "against")),
            f"{row['ratio']:.2f} [{row['ratio_ci95'][0]:.2f}, {row['ratio_ci95'][1]:.2f}]",
            f"{row['bar']:g}",
            row["note"],
        ]
        for row in rows
    ]
    return markdown(["model", "what", "against", "ratio [95 %]", "bar", ""], cells, ("ratio [95 %]", "bar"))


EXCERPTS = {excerpt.__name__: excerpt for excerpt in (real, comparison, experiments, bench)}


def shown(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The methods of ``ROWS`` that were compared, in its order."""
    methods = {method["name"]: method for method in results["methods"]}
    return [methods[name] for name in ROWS if name in methods]


def overview(results: Mapping[str, Any]) -> str:
    """An SVG file's text: how many times as fast each of these methods is, with its interval and what it loses."""
    from litestage.report.drawing import panel, svg_file
    from litestage.report.palette import GREY, OURS

    methods = shown(results)
    figure, (axes,) = panel(0.7 + 0.3 * len(methods), width=7.2)
    for row, method in enumerate(methods):
        colour = OURS if method["name"].startswith("litestage") else GREY
        low, high = method["speedup_ci95"]
        hollow = {"facecolor": "none", "edgecolor": colour} if "model" in method else {"facecolor": colour}
        axes.barh(row, method["speedup"], height=0.62, **hollow)
        for line, breadth in (("#ffffff", 3.5), ("#000000", 1.2)):  # a rim of paper, to be seen on the bar too
            axes.plot([low, high], [row, row], color=line, linewidth=breadth)
        axes.annotate(
            f"{method['speedup']:.2f}x, {_loss(method)}",
            (high, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="#000000", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(methods)), [method["name"] for method in methods])
    axes.invert_yaxis()
    axes.margins(x=0.2, y=0.02)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("times as fast as full depth, and the change in accuracy", fontsize=9)
    return svg_file(figure, "overview")


def fill(text: str, reports: Path) -> str:
    """The Markdown with every excerpt as the reports have it now.

    Raises:
        LiteStageError: a mark names no excerpt.
    """

    def written(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in EXCERPTS:
            raise LiteStageError(f"There is no excerpt {name!r}; there are {', '.join(EXCERPTS)}.")
        return f"<!-- {name} -->\n{EXCERPTS[name](reports)}\n<!-- end {name} -->"

    return re.sub(r"<!-- (?P<name>[\w-]+) -->\n.*?<!-- end (?P=name) -->", written, text, flags=re.DOTALL)


def main(files: list[Path]) -> None:
    """Writes these Markdown files' excerpts anew, and the picture."""
    for file in files:
        file.write_text(fill(file.read_text(encoding="utf-8"), REPORTS), encoding="utf-8")
    PICTURE.write_text(overview(read_json(REPORTS / "menagerie" / "results.json")), encoding="utf-8")


def _loss(method: Mapping[str, Any]) -> str:
    lost = round(method["accuracy_drop"] * 100, 1) + 0.0
    return f"{-lost:+.1f} points" if lost else "as accurate"


if __name__ == "__main__":
    run_alone(main)
