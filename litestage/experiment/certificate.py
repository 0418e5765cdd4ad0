"""How often a certified bound breaks: searches simulated over tables of candidates whose true drops are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binom, binomtest, norm

from litestage.comparison.results import estimate
from litestage.config import RunConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import Columns, Findings, Row
from litestage.experiment.options import some
from litestage.experiment.panels import PALETTE, coloured, legend, name_axes, panels, with_intervals
from litestage.experiment.tables import Table, simulate, tables, uncertified
from litestage.experiment.wording import distinct, where
from litestage.progress import each
from litestage.search.enough import confirming
from litestage.session.workbench import Workbench
from litestage.stats import Bound
from litestage.stats.paired import Array, score

COLUMNS: Columns = {
    "table": "table",
    "losses": "losses",
    "bound": lambda row: f"{row['bound'] * 100:g}",
    "questions,\nconfirming": lambda row: f"{row['calibration']}, {row['n']}",
    "broken [95 % limit]": lambda row: f"{row['broken_rate']:.1%} [{row['broken_rate_ci95'][1]:.1%}]",
    "certified": lambda row: f"{row['certified_rate']:.0%}",
    "speed-up": lambda row: f"{row['mean_speedup']:.2f}x",
    "without": lambda row: f"{row['uncertified_mean_speedup']:.2f}x, {row['uncertified_broken_rate']:.0%} broken",
    "possible": lambda row: f"{row['possible_speedup']:.2f}x",
}
DRAWS = 200_000
"""Of outcomes at the bound: they tell a level of 0.1 to within 0.001."""
LARGEST = 0.18
"""Of the bounds: tables hold candidates that lose five times as much, and 6 % more."""
MORE = 0.01
"""By how much the upper limit of the rate may be above what is stated."""


@dataclass
class Options(RunConfig):
    """Options of ``experiment certificate``.

    Attributes:
        searches: how many are simulated over every table.
        sizes: calibration questions.
        share: how many of these confirm, as a fraction; by default as many as a search would take.
        bounds: fractions; those that a size cannot certify are left out.
    """

    searches: int = 10_000
    sizes: list[int] = field(default_factory=lambda: [80, 256, 512, 2000])
    share: float | None = None
    bounds: list[float] = field(default_factory=lambda: [0.02, 0.1])


def run(bench: Workbench, config: Options) -> Findings:
    """Simulates every table at every size and bound."""
    at_least(1, searches=config.searches)
    some(sizes=config.sizes, bounds=config.bounds)
    wrong = [bound for bound in config.bounds if not 0 < bound <= LARGEST]
    if wrong:
        raise LiteStageError(f"bounds has {wrong[0]}; give fractions above 0, up to {LARGEST}.")
    at_least(1, sizes=min(config.sizes))
    if config.share is not None and not 0 < config.share < 1:
        raise LiteStageError(f"share is {config.share}; give a fraction of the questions, e.g. 0.5.")
    cases = [
        (table, bound, size, n)
        for most in config.bounds
        for bound in (Bound(most, config.search.confidence),)
        for size in config.sizes
        for n in (confirming(size, bound) if config.share is None else round(config.share * size),)
        if bound.fewest is not None and bound.fewest <= n < size
        for table in tables(most)
    ]
    if not cases:
        raise LiteStageError(
            f"bounds is {list(config.bounds)} and sizes {list(config.sizes)}, of which no size can certify a bound; "
            "raise one of them."
        )
    rows = [
        _row(table, bound, size, n, config.searches, np.random.default_rng([config.seed, at]))
        for at, (table, bound, size, n) in enumerate(each("tables simulated", cases))
    ]
    levels = [_levels(bound, n, config) for bound, n in dict.fromkeys((bound, n) for _, bound, _, n in cases)]
    return Findings(
        split="simulated",
        questions=max(config.sizes),
        rows=rows,
        columns=COLUMNS,
        shows=(_broken(rows, config), _cost(rows)),
        figure=_figure(rows, 1 - config.search.confidence),
        more={
            "stated_rate": 1 - config.search.confidence,
            "searches": config.searches,
            "p_values": levels,
            "task": "simulated tables",
            "model": {"name": "none"},
            "pipeline": {"name": "none", "hash": ""},
            "data": {},
        },
        latency="given by the tables",
    )


def _row(table: Table, bound: Bound, size: int, n: int, searches: int, rng: np.random.Generator) -> dict[str, Any]:
    found, before = simulate(table, bound, size - n, n, searches, rng), uncertified(table, bound, size, searches, rng)
    broken = int(found.broken.sum())
    interval = binomtest(broken, searches).proportion_ci(0.95, method="exact")
    within = table.speedup[table.drop <= bound.most]
    return {
        "table": table.name,
        "losses": "nested" if table.nested else "independent",
        "bound": bound.most,
        "calibration": size,
        "n": n,
        "searches": searches,
        "broken": broken,
        **estimate("broken_rate", broken / searches, (float(interval.low), float(interval.high))),
        "certified_rate": float(found.certified.mean()),
        "mean_speedup": float(found.speedup.mean()),
        "uncertified_broken_rate": float(before.broken.mean()),
        "uncertified_mean_speedup": float(before.speedup.mean()),
        "possible_speedup": float(within.max(initial=1.0)),
    }


def _levels(bound: Bound, n: int, config: Options) -> dict[str, Any]:
    """How often each of several tests passes a plan that breaks the bound by nothing, at worst, and one that is good.

    The tests: ours; the score test by the normal distribution; a binomial test of what is lost, whatever is gained; and
    a bet against the hypothesis, averaged over stakes (Waudby-Smith and Ramdas, arXiv 2010.09686), read at the end.
    """
    rng = np.random.default_rng([config.seed, n])
    at_edge: dict[str, float] = {}
    good: dict[str, dict[str, float]] = {}
    for gained in (0.0, 0.01, 0.06):
        for drop, of in ((bound.most, "edge"), (bound.most / 4, "good")):
            lost = rng.binomial(n, drop + gained, DRAWS)
            won = rng.binomial(n - lost, gained / (1 - drop - gained))
            rates = {name: float(passed.mean()) for name, passed in _tests(bound, n, lost, won).items()}
            if of == "edge":
                at_edge = {name: max(rate, at_edge.get(name, 0.0)) for name, rate in rates.items()}
            else:
                good[f"gained {gained:g}"] = rates
    return {"bound": bound.most, "n": n, "passed_at_the_bound_at_worst": at_edge, "passed_at_a_quarter": good}


def _tests(bound: Bound, n: int, lost: Array, gained: Array) -> dict[str, Array]:
    stakes = np.linspace(0, 1 / (1 - bound.most), 50)[1:-1, None]
    bets = lost * np.log1p(-stakes * (1 - bound.most)) + gained * np.log1p(stakes * (1 + bound.most))
    capital = np.exp(bets + (n - lost - gained) * np.log1p(stakes * bound.most)).mean(axis=0)
    return {
        "exact": lost <= bound.most_lost(n)[gained],
        "normal score": norm.cdf(score(lost, gained, n, bound.most)) <= bound.level,
        "binomial of losses": binom.cdf(lost, n, bound.most) <= bound.level,
        "betting": capital >= 1 / bound.level,
    }


def _broken(rows: Sequence[Row], config: Options) -> str:
    worst = max(rows, key=lambda row: row["broken_rate"])
    stated = 1 - config.search.confidence
    below = sum(row["broken_rate_ci95"][1] < stated + MORE for row in rows)
    before = max(rows, key=lambda row: row["uncertified_broken_rate"])
    return (
        f"Of {config.searches} searches over each of {len(rows)} tables the bound was broken in at most "
        f"{worst['broken_rate']:.1%} (95 % interval {worst['broken_rate_ci95'][0]:.1%} to "
        f"{worst['broken_rate_ci95'][1]:.1%}; {worst['table']}, {worst['calibration']} questions), where "
        f"{stated * 100:g}% is allowed; the interval ends below {(stated + MORE) * 100:g}% for {below} of them. "
        f"Without the guarantee, at the same number of questions, it was broken in up to "
        f"{before['uncertified_broken_rate']:.0%}."
    )


def _cost(rows: Sequence[Row]) -> str:
    rise = where(rows, table="losses rise with speed", losses="nested")
    parts = [
        f"{row['mean_speedup']:.2f} times as fast with it and {row['uncertified_mean_speedup']:.2f} without "
        f"({row['mean_speedup'] / row['uncertified_mean_speedup']:.2f}), of {row['possible_speedup']:.2f} possible, at "
        f"{row['calibration']} questions, {row['n']} of them confirming, and {row['bound'] * 100:g} points"
        for row in rise
    ]
    return f"Where losses rise with speed, plans are on average {'; '.join(parts)}."


def _figure(rows: Sequence[Row], stated: float) -> Any:
    figure, (broken, speed) = panels(2, width=4.8, share_y=False)
    for size, colour in coloured(sorted(distinct(rows, "calibration"))):
        mine = where(rows, calibration=size)
        x = [row["uncertified_broken_rate"] * 100 for row in mine]
        style = {"fmt": "o", "markersize": 4, "color": colour, "label": f"{size} questions"}
        with_intervals(broken, x, mine, "broken_rate", scale=100, **style)
        before = [row["uncertified_mean_speedup"] for row in mine]
        speed.scatter(before, [row["mean_speedup"] for row in mine], s=16, color=colour)
    broken.axhline(stated * 100, color=PALETTE[-1], linestyle="--", linewidth=1)
    legend(broken)
    without = "bound broken without the guarantee, %"
    name_axes(broken, title="a dot is a table; dashed: what is stated", x=without, y="with it, %")
    ends = [1.0, max(row["uncertified_mean_speedup"] for row in rows)]
    speed.plot(ends, ends, color=PALETTE[-1], linestyle=":", linewidth=1)
    name_axes(speed, title="what it costs", x="mean speed-up without the guarantee", y="with it")
    return figure
