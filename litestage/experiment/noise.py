"""How much of a searched plan is chance: the search repeated on resamples of the calibration questions, and each
repeat's plan tried on the test split against the bound it was searched under.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from statistics import median
from typing import Any

from scipy.stats import binomtest

from litestage.config import RunConfig
from litestage.data.task import Split, Task
from litestage.errors import LiteStageError
from litestage.experiment.findings import Experiment, Findings
from litestage.experiment.panels import PALETTE, panels
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, INTERVAL, cells
from litestage.stages import Question
from litestage.workbench import Workbench

Row = Mapping[str, Any]


@dataclass
class NoiseConfig(RunConfig):
    """Options of ``experiment noise``.

    Attributes:
        repeats: how many searches.
        seed: of the resamples: each draws ``search.calibration`` questions of the calibration split, none twice.
    """

    repeats: int = 6
    seed: int = 0


@dataclass(frozen=True)
class Drawn:
    """A task's calibration rows, given in memory."""

    rows: Mapping[str, list[Question]]

    @property
    def names(self) -> Sequence[str]:
        return list(self.rows)

    def questions(self, name: str) -> list[Question]:
        return self.rows[name]


def run(bench: Workbench, config: NoiseConfig) -> Findings:
    """Searches on every resample, then tries each distinct plan on the test split."""
    if config.repeats < 2:
        raise LiteStageError(f"repeats is {config.repeats}; give at least 2.")
    pool, size = bench.task.questions("calibration"), config.search.calibration
    if size >= len(pool):
        raise LiteStageError(
            f"search.calibration is {size} and the calibration split has {len(pool)} questions, so that every resample "
            "would be the same; give fewer."
        )
    bound, trials, rows = config.search.max_accuracy_drop, Trials.on_test(bench), []
    for repeat in range(config.repeats):
        found = replace(bench, task=resampled(bench.task, pool, size, config.seed + repeat)).search()
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
        shows=(_stability(rows, size, len(pool)), _violations(rows, bound, len(trials.questions))),
        figure=_figure(rows, bound),
        more={"bound": bound, "pool": len(pool), "violation_rate_ci95": list(violation_interval(rows))},
    )


def resampled(task: Task, pool: Sequence[Question], size: int, seed: int) -> Task:
    """The task with ``size`` of ``pool`` as its calibration split, and no other split."""
    rows = {"calibration": Random(seed).sample(list(pool), size)}
    return replace(task, source=Drawn(rows), splits={"calibration": Split("calibration")})


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
    budgets.set_ylabel("sub-layers skipped", fontsize=8)
    budgets.set_title("what the searches chose", fontsize=10)
    for row in rows:
        low, high = (bound * 100 for bound in row["accuracy_drop_ci95"])
        drop = row["accuracy_drop"] * 100
        drops.errorbar(
            row["predicted_speedup"],
            drop,
            yerr=[[drop - low], [high - drop]],
            fmt="o",
            capsize=2,
            color=PALETTE[0] if row["breaks_bound"] else PALETTE[1],
        )
    drops.axhline(bound * 100, color="#334155", linestyle="--", linewidth=1)
    drops.set_xlabel("predicted speed-up", fontsize=8)
    drops.set_ylabel("accuracy lost on the test split, points", fontsize=8)
    drops.set_title("what they lose; dashed: the bound", fontsize=10)
    return figure


EXPERIMENT = Experiment(NoiseConfig, run)
