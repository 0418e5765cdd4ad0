"""How much of a searched plan is chance: the search repeated on resamples of the calibration questions, and each
repeat's plan tried on the test split against the bound it was searched under.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from scipy.stats import binomtest

from litestage.config import RunConfig
from litestage.errors import LiteStageError
from litestage.experiment.findings import Experiment, Findings
from litestage.experiment.options import at_least
from litestage.experiment.panels import PALETTE, name_axes, panels, with_intervals
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, INTERVAL, cells
from litestage.workbench import Workbench

Row = Mapping[str, Any]


@dataclass
class NoiseConfig(RunConfig):
    """Options of ``experiment noise``.

    Attributes:
        repeats: how many searches; each draws ``search.calibration`` questions of the calibration split, none twice,
            with the seeds after ``seed``.
    """

    repeats: int = 6


def run(bench: Workbench, config: NoiseConfig) -> Findings:
    """Searches on every resample, then tries each distinct plan on the test split."""
    at_least(2, repeats=config.repeats)
    pool, size = len(bench.task.questions("calibration")), config.search.calibration
    if size >= pool:
        raise LiteStageError(
            f"search.calibration is {size} and the calibration split has {pool} questions, so that every resample "
            "would be the same; give fewer."
        )
    bound, trials, rows = config.search.max_accuracy_drop, Trials.on_test(bench), []
    for repeat in range(config.repeats):
        resample = replace(bench.task, seed=config.seed + repeat + 1)
        found = replace(bench, task=resample).search()
        row = trials.row(found.plan)
        rows.append(
            {
                "repeat": repeat,
                "budgets": dict(found.chosen.budgets),
                "met": found.met,
                "calibration_drop": found.chosen.accuracy_drop,
                "breaks_bound": row["accuracy_drop"] > bound,
                "surely_breaks_bound": row["accuracy_drop_ci95"][0] > bound,
                **row,
            }
        )
    return Findings(
        split="test",
        questions=len(trials.questions),
        rows=rows,
        columns=["resample", "skipped", "calibration\ndrop", *COLUMNS, "breaks\nthe bound"],
        table=[
            [
                str(row["repeat"]),
                " / ".join(str(budget) for budget in row["budgets"].values()),
                f"{row['calibration_drop'] * 100:+.1f}",
                *cells(row),
                "surely" if row["surely_breaks_bound"] else "yes" if row["breaks_bound"] else "no",
            ]
            for row in rows
        ],
        shows=(_stability(rows, size, pool), _violations(rows, bound, len(trials.questions))),
        figure=_figure(rows, bound),
        more={"bound": bound, "pool": pool, "violation_rate_ci95": list(violation_interval(rows))},
    )


def violation_interval(rows: Sequence[Row]) -> tuple[float, float]:
    """95 % Wilson interval of the share of searches whose plan breaks its bound on the test split."""
    found = binomtest(sum(row["breaks_bound"] for row in rows), len(rows)).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def _stability(rows: Sequence[Row], size: int, pool: int) -> str:
    parts = []
    for stage in rows[0]["budgets"]:
        budgets = [row["budgets"][stage] for row in rows]
        parts.append(f"{stage} {min(budgets)} to {max(budgets)} (median {median(budgets):g})")
    speed = sorted(row["predicted_speedup"] for row in rows)
    return (
        f"{len(rows)} searches on {size} of {pool} calibration questions chose {len({row['plan'] for row in rows})} "
        f"different plans; sub-layers skipped: {', '.join(parts)}; predicted speed-up {speed[0]:.2f} to "
        f"{speed[-1]:.2f} (median {median(speed):.2f})."
    )


def _violations(rows: Sequence[Row], bound: float, questions: int) -> str:
    drops = sorted(row["accuracy_drop"] * 100 for row in rows)
    broken, surely = (sum(row[name] for row in rows) for name in ("breaks_bound", "surely_breaks_bound"))
    low, high = violation_interval(rows)
    return (
        f"On {questions} test questions they lose {drops[0]:.1f} to {drops[-1]:.1f} points (median "
        f"{median(drops):.1f}); {broken} of {len(rows)} break the bound of {bound * 100:.1f} there "
        f"({broken / len(rows):.0%}, {INTERVAL} {low:.0%} to {high:.0%}), {surely} of them beyond their own {INTERVAL}."
    )


def _figure(rows: Sequence[Row], bound: float) -> Any:
    figure, (budgets, drops) = panels(2, width=4.4, share_y=False)
    stages = list(rows[0]["budgets"])
    for index, stage in enumerate(stages):
        for budget, count in Counter(row["budgets"][stage] for row in rows).items():
            budgets.scatter(index, budget, s=40 + 60 * count, color=PALETTE[1], alpha=0.6)
            budgets.annotate(f"{count}x", (index, budget), textcoords="offset points", xytext=(12, -3), fontsize=8)
    budgets.set_xticks(range(len(stages)), stages)
    budgets.margins(x=0.25, y=0.15)
    budgets.yaxis.get_major_locator().set_params(integer=True)
    name_axes(budgets, title="what the searches chose", y="sub-layers skipped")
    for row in rows:
        colour = PALETTE[0] if row["breaks_bound"] else PALETTE[1]
        with_intervals(drops, [row["predicted_speedup"]], [row], "accuracy_drop", scale=100, fmt="o", color=colour)
    drops.axhline(bound * 100, color=PALETTE[-1], linestyle="--", linewidth=1)
    lost = "accuracy lost on the test split, points"
    name_axes(drops, title="what they lose; dashed: the bound", x="predicted speed-up", y=lost)
    return figure


EXPERIMENT = Experiment(NoiseConfig, run)
