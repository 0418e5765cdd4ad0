"""How much of a searched plan is chance, and whether it keeps what it promises: the search repeated on resamples of the
calibration questions, and each repeat's plan tried on thousands of questions that nothing else has asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean, median
from typing import Any

from litestage.config import RunConfig, SearchConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import Findings, Row
from litestage.experiment.fresh import FreshQuestions
from litestage.experiment.panels import PALETTE, name_axes, panels, with_intervals
from litestage.experiment.resumed import Resumed
from litestage.experiment.wording import INTERVAL
from litestage.report.wording import signed_points
from litestage.session.workbench import Workbench
from litestage.stats import wilson_interval


@dataclass
class Options(RunConfig):
    """Options of ``experiment noise``.

    Attributes:
        repeats: how many searches; each draws ``search.calibration`` questions of the calibration split, none twice,
            with the seeds after ``seed``.
        fresh: on how many questions, that no split has, each plan's true drop is measured.
        uncertified: the first so many repeats also search without a certificate, on the same questions, all of them.
    """

    repeats: int = 40
    fresh: int = 20_000
    uncertified: int = 8


def run(bench: Workbench, config: Options) -> Findings:
    """Searches on every resample and measures each plan; what a killed run had finished is taken up."""
    at_least(2, repeats=config.repeats)
    at_least(1, fresh=config.fresh)
    pool, size = len(bench.task.questions("calibration")), config.search.calibration
    if size >= pool:
        raise LiteStageError(
            f"search.calibration is {size} and the calibration split has {pool} questions, so that every resample "
            "would be the same; give fewer."
        )
    trials = FreshQuestions.of(bench, config.fresh)
    ours = asdict(config.search), config.exit, config.seed, len(trials.questions), bench.session.chat_template
    kept = Resumed(bench, "noise", *ours, [asdict(question) for question in bench.task.questions("calibration")])
    rows = []
    for repeat in range(config.repeats):
        resample = replace(bench, task=replace(bench.task, seed=config.seed + repeat + 1))
        row = kept.once(f"certified-{repeat}", partial(_measured, resample, config.search, trials))
        if repeat < config.uncertified:
            without = partial(_measured, resample, replace(config.search, confirm=0), trials)
            row = {**row, "uncertified": kept.once(f"uncertified-{repeat}", without)}
        rows.append({"repeat": repeat, **row})
    kept.close()
    return Findings(
        split=trials.split,
        questions=len(trials.questions),
        rows=rows,
        columns={
            "resample": "repeat",
            "skipped": lambda row: " / ".join(str(budget) for budget in row["budgets"].values()),
            "calibration\ndrop": lambda row: f"{row['calibration_drop'] * 100:+.1f}",
            "true drop [95 %]": lambda row: signed_points(row, "true_drop", digits=2),
            "same answers": lambda row: f"{row['true_agreement']:.1%}",
            "speed-up": lambda row: f"{row['predicted_speedup']:.2f}x",
            "breaks": lambda row: "yes" if row["breaks_bound"] else "no",
        },
        shows=(_stability(rows, size, pool), _violations(rows, config, len(trials.questions))),
        figure=_figure(rows, config.search),
        more={
            "bound": config.search.max_accuracy_drop,
            "bounded": config.search.bound,
            "pool": pool,
            "stated_rate": 1 - config.search.confidence,
            "broken": sum(row["breaks_bound"] for row in rows),
            "violation_rate_ci95": list(violation_interval(rows)),
            "cost": _cost(rows),
        },
    )


def _measured(bench: Workbench, search: SearchConfig, trials: FreshQuestions) -> dict[str, Any]:
    """Searches a plan; what it does on the fresh questions, and whether the bound is broken there."""
    found = bench.search(search)
    row = trials.row(found.plan)
    loss = row["true_drop"] if search.bound == "accuracy" else 1 - row["true_agreement"]
    certificate = found.plan.certificate
    return {
        "budgets": dict(found.chosen.budgets),
        "exit": found.chosen.exit,
        "met": found.met,
        "certificate": asdict(certificate) if certificate else None,
        "walked": len(found.walk.steps) if found.walk else None,
        "calibration_drop": found.chosen.accuracy_drop,
        "searched_speedup": found.full.latency_s / found.chosen.latency_s,
        "breaks_bound": loss > search.max_accuracy_drop + 1e-12,  # 1 - 0.98 is above 0.02
        **row,
    }


def violation_interval(rows: Sequence[Row]) -> tuple[float, float]:
    """95 % Wilson interval of the share of searches whose plan truly breaks its bound."""
    return wilson_interval(sum(row["breaks_bound"] for row in rows), len(rows))


def _cost(rows: Sequence[Row]) -> dict[str, Any] | None:
    """What the guarantee costs: the searches that were made both ways."""
    both = [row for row in rows if "uncertified" in row]
    if not both:
        return None
    ratios = [row["predicted_speedup"] / row["uncertified"]["predicted_speedup"] for row in both]
    return {
        "searches": len(both),
        "certified_speedup": fmean(row["predicted_speedup"] for row in both),
        "uncertified_speedup": fmean(row["uncertified"]["predicted_speedup"] for row in both),
        "ratio": fmean(ratios),
        "least_ratio": min(ratios),
        "uncertified_broken": sum(row["uncertified"]["breaks_bound"] for row in both),
    }


def _stability(rows: Sequence[Row], size: int, pool: int) -> str:
    parts = []
    for stage in rows[0]["budgets"]:
        budgets = [row["budgets"][stage] for row in rows]
        parts.append(f"{stage} {min(budgets)} to {max(budgets)} (median {median(budgets):g})")
    speed = sorted(row["predicted_speedup"] for row in rows)
    said = (
        f"{len(rows)} searches on {size} of {pool} calibration questions chose {len({row['plan'] for row in rows})} "
        f"different plans; sub-layers skipped: {', '.join(parts)}; predicted speed-up {speed[0]:.2f} to "
        f"{speed[-1]:.2f} (median {median(speed):.2f}, mean {fmean(speed):.2f})."
    )
    if cost := _cost(rows):
        said += (
            f" On the first {cost['searches']}, plans with a certificate are predicted {cost['certified_speedup']:.2f} "
            f"times as fast on average, {cost['ratio']:.2f} of the {cost['uncertified_speedup']:.2f} of those without, "
            f"of which {cost['uncertified_broken']} break the bound."
        )
    return said


def _violations(rows: Sequence[Row], config: Options, asked: int) -> str:
    drops = sorted(row["true_drop"] * 100 for row in rows)
    broken, (low, high) = sum(row["breaks_bound"] for row in rows), violation_interval(rows)
    bound = config.search.max_accuracy_drop * 100
    what = "points" if config.search.bound == "accuracy" else "% of answers changed"
    return (
        f"On {asked} other questions they lose {drops[0]:.2f} to {drops[-1]:.2f} points (median "
        f"{median(drops):.2f}); {broken} of {len(rows)} break the bound of {bound:g} {what} ({broken / len(rows):.0%}, "
        f"{INTERVAL} {low:.0%} to {high:.0%}), where {(1 - config.search.confidence) * 100:g}% is stated."
    )


def _figure(rows: Sequence[Row], search: SearchConfig) -> Any:
    if search.bound == "accuracy":
        figure_of, level, what = "true_drop", search.max_accuracy_drop, "accuracy truly lost, points"
    else:
        figure_of, level, what = "true_agreement", 1 - search.max_accuracy_drop, "answers truly as full depth's, %"
    figure, (budgets, drops) = panels(2, width=4.4, share_y=False)
    stages = list(rows[0]["budgets"])
    for index, stage in enumerate(stages):
        for budget, count in Counter(row["budgets"][stage] for row in rows).items():
            budgets.scatter(index, budget, s=40 + 20 * count, color=PALETTE[1], alpha=0.6)
            budgets.annotate(f"{count}x", (index, budget), textcoords="offset points", xytext=(12, -3), fontsize=8)
    budgets.set_xticks(range(len(stages)), stages)
    budgets.margins(x=0.25, y=0.15)
    budgets.yaxis.get_major_locator().set_params(integer=True)
    name_axes(budgets, title="what the searches chose", y="sub-layers skipped")
    for row in rows:
        colour = PALETTE[0] if row["breaks_bound"] else PALETTE[1]
        with_intervals(drops, [row["predicted_speedup"]], [row], figure_of, scale=100, fmt="o", color=colour)
        if "uncertified" in row:
            without = row["uncertified"]
            drops.plot(without["predicted_speedup"], without[figure_of] * 100, "x", color=PALETTE[4])
    drops.axhline(level * 100, color=PALETTE[-1], linestyle="--", linewidth=1)
    name_axes(drops, title="what they lose; crosses: uncertified", x="predicted speed-up", y=what)
    return figure
