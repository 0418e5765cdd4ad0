"""What a search costs and what it finds: the paper's greedy search run as it is, the same with every generation found
again, and the pareto search on the fidelity ranking. Ranking, compensation and profiling are counted in.

Each search begins with an empty store. The plans it finds are then answered one question at a time, by the clock,
interleaved, and tried on the test split, on which nothing was selected.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from time import perf_counter
from typing import Any

from litestage.comparison.results import sped
from litestage.config import RunConfig, SearchConfig, variant
from litestage.errors import at_least
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some
from litestage.experiment.panels import coloured, name_axes, panels, with_intervals
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, drop_of, speedup_of
from litestage.report.wording import times
from litestage.search.candidate import SearchResult
from litestage.session.workbench import Workbench
from litestage.store import ResultStore, ReusingEngine


@dataclass
class Options(RunConfig):
    """Options of ``experiment search-cost``. ``variants`` are the searches, in order; the first is the yardstick."""

    searches: list[str] = field(default_factory=lambda: ["greedy, no reuse", "greedy", "pareto"])


@dataclass(frozen=True)
class Costed:
    """A search, and what it took."""

    found: SearchResult
    seconds: float
    tokens: float
    steps: int


def run(bench: Workbench, config: Options) -> Findings:
    """Runs every search from nothing, then the plans they found by the clock."""
    some(config.variants, searches=config.searches)
    at_least(1, latency_questions=config.latency_questions)
    costed = {name: search_from_nothing(bench, variant(config, name)) for name in config.searches}
    trials = Trials.on_test(bench)
    plans = {"full": trials.full, **{name: search.found.plan for name, search in costed.items()}}
    seconds = trials.by_the_clock(plans, config.latency_questions)
    first = costed[config.searches[0]]
    rows = []
    for name, search in costed.items():
        found = search.found
        rows.append(
            {
                "search": name,
                "seconds": search.seconds,
                "share_of_first": search.seconds / first.seconds,
                "tokens_forwarded": search.tokens,
                "sequential_decode_steps": search.steps,
                "candidates": len(found.candidates),
                "budgets": dict(found.chosen.budgets),
                "compensation": dict(found.chosen.compensation),
                "calibration_drop": found.chosen.accuracy_drop,
                "measured_latency_s": fmean(seconds[name]),
                **sped(seconds["full"], seconds[name], "measured_speedup"),
                "options": asdict(variant(config, name)),
                **trials.row(found.plan),
            }
        )
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            "search": "search",
            "s": lambda row: f"{row['seconds']:.1f}",
            "share": lambda row: f"{row['share_of_first']:.2f}",
            "tokens": lambda row: f"{row['tokens_forwarded'] / 1e6:.2f} M",
            "decode steps": lambda row: f"{row['sequential_decode_steps']:,}",
            "skipped": lambda row: " / ".join(map(str, row["budgets"].values())),
            **{name: COLUMNS[name] for name in ("drop, points [95 %]", "same answers")},
            "speed-up [95 %]": lambda row: times(row, "measured_speedup"),
        },
        shows=(_cost(rows), _quality(rows)),
        figure=_figure(rows),
        more={"latency_questions": len(seconds["full"]), "calibration": config.search.calibration},
        latency="by the clock, one question at a time, interleaved; what is predicted says so",
    )


def search_from_nothing(bench: Workbench, options: SearchConfig) -> Costed:
    """A search with an empty store of its own, on a model that has been warmed up."""
    session = bench.session
    reusing = ReusingEngine(session.engine, session.loaded.fingerprint, ResultStore())
    fresh = replace(bench, session=replace(session, reusing=reusing))
    work = session.engine.decoder.work
    before, started = copy(work), perf_counter()
    found = fresh.search(options)
    seconds, done = perf_counter() - started, work.since(before)
    return Costed(found, seconds, done.tokens, done.steps)


def _cost(rows: Sequence[Row]) -> str:
    first, *others = rows
    if not others:
        return f"{first['search']} takes {first['seconds']:.0f} s; no other search was asked for."
    parts = [
        f"{row['search']} takes {row['share_of_first']:.2f} of its time, "
        f"{row['tokens_forwarded'] / first['tokens_forwarded']:.2f} of the tokens and "
        f"{row['sequential_decode_steps'] / max(1, first['sequential_decode_steps']):.2f} of the decode steps"
        for row in others
    ]
    return f"Against {first['search']} ({first['seconds']:.0f} s): {'; '.join(parts)}."


def _quality(rows: Sequence[Row]) -> str:
    parts = []
    for row in rows:
        speed = speedup_of(row, "measured_speedup", " as full depth")
        parts.append(f"the plan of {row['search']} is {speed} and loses {drop_of(row)}")
    return f"By the clock, {'; '.join(parts)}."


def _figure(rows: Sequence[Row]) -> Any:
    figure, (cost, quality) = panels(2, width=4.4, share_y=False)
    names = [row["search"] for row in rows]
    colours = [colour for _, colour in coloured(rows)]
    cost.barh(names, [row["seconds"] for row in rows], color=colours)
    cost.invert_yaxis()
    name_axes(cost, title="what it took", x="seconds of search")
    for row, colour in zip(rows, colours, strict=True):
        x = [row["measured_speedup"]]
        with_intervals(quality, x, [row], "accuracy_drop", scale=100, fmt="o", color=colour)
    lost = "accuracy lost on the test split, points"
    name_axes(quality, title="what was found, in the bars' colours", x="speed-up by the clock", y=lost)
    return figure
