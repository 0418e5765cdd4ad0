"""Exit thresholds and windows: what cutting a stage where confidence falls saves, and what it costs.

The exit rule only shortens a generation, so one uncut run per plan serves every threshold and window; what is run anew
are later stages whose prompts a cut changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from litestage.config import RunConfig
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some, without_exit
from litestage.experiment.panels import LINE, coloured, legend, name_axes, panels, with_intervals
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, drop_of, speedup_of, where
from litestage.plan import ExitRule, Plan
from litestage.progress import bar
from litestage.session.workbench import Workbench


@dataclass
class Options(RunConfig):
    """Options of ``experiment threshold``.

    Attributes:
        plans: what is cut: shorthands, plan files, or ``litestage``, which is searched first.
        thresholds: mean confidences at or below which a stage ends.
        windows: over how many of the last tokens.
    """

    plans: list[str] = field(default_factory=lambda: ["full", "cosine:4"])
    thresholds: list[float] = field(default_factory=lambda: [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    windows: list[int] = field(default_factory=lambda: [3, 5, 10, 20])

    def __post_init__(self) -> None:
        """Raises LiteStageError for an empty list, or a rule that is none, before a model is loaded."""
        some(plans=self.plans, thresholds=self.thresholds, windows=self.windows)
        self.rules()

    def rules(self) -> list[ExitRule]:
        """Every threshold with every window."""
        rule = self.exit.get("rule", "confidence")
        return [ExitRule(rule, threshold=tau, window=window) for window in self.windows for tau in self.thresholds]


def run(bench: Workbench, config: Options) -> Findings:
    """Every threshold with every window on every plan, on the test split, each against the same plan uncut."""
    rules = config.rules()
    plans = {spec: _plan(bench, spec) for spec in dict.fromkeys(config.plans)}
    trials, rows = Trials.on_test(bench), []
    trials.traces(trials.full, progress="full depth")
    with bar("thresholds and windows", len(plans) * len(rules)) as advance:
        for spec, plan in plans.items():
            rows.append({"of": spec, "threshold": None, "window": None, **trials.row(plan)})
            for rule in rules:
                setting = rule.to_dict()
                cut = plan.with_exit(rule)
                trials.traces(cut, [plan])
                rows.append(
                    {
                        "of": spec,
                        "threshold": setting["threshold"],
                        "window": setting["window"],
                        **trials.row(cut),
                        "against_uncut": trials.against(cut, plan),
                    }
                )
                advance(1)
    bound = config.search.max_accuracy_drop
    sentences = [what_rules_do(rows, spec, bound) for spec in plans]
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            "plan": "of",
            "threshold": lambda row: "uncut" if row["threshold"] is None else f"{row['threshold']:g}",
            "window": lambda row: "" if row["threshold"] is None else str(row["window"]),
            **COLUMNS,
            "rows cut": lambda row: " / ".join(f"{stage['cut']:.0%}" for stage in row["stages"].values()),
        },
        shown=[row for row in rows if row["threshold"] is None or _cuts(row)],  # others are the uncut plan again
        shows=(sentences[0], " ".join(sentences[1:]) or _by_stage(rows)),
        figure=_figure(rows, list(plans)),
    )


def _plan(bench: Workbench, spec: str) -> Plan:
    """The plan without the exit rule that a search or a file has given it."""
    if spec == "litestage":
        return bench.search().plan.with_exit(None)
    without_exit([spec])
    return bench.session.plan(spec, bench.task, bench.pipeline).with_exit(None)


def _cuts(row: Row) -> bool:
    return any(stage["cut"] for stage in row["stages"].values())


def what_rules_do(rows: Sequence[Row], spec: str, bound: float) -> str:
    """For one plan: the fastest rule that surely loses no more than the bound against the uncut plan, and the worst."""
    uncut, *cut = where(rows, of=spec)
    cutting = [row for row in cut if _cuts(row)]
    tried = f"{len(cutting)} of {len(cut)} rules cut anything on {spec} ({uncut['accuracy']:.1%} right uncut)"
    if not cutting:
        return f"{tried}."
    worst = max(cutting, key=lambda row: row["against_uncut"]["accuracy_drop"])
    tried += f"; {_named(worst)} loses most against it, {drop_of(worst['against_uncut'])}"
    safe = [
        row
        for row in cutting
        if row["against_uncut"]["accuracy_drop_ci95"][1] <= bound
        and row["against_uncut"]["predicted_speedup_ci95"][0] > 1
    ]
    if not safe:
        return f"{tried}, and none is measurably faster while surely losing at most {bound * 100:.1f} points."
    best = max(safe, key=lambda row: row["against_uncut"]["predicted_speedup"])
    return (
        f"{tried}, and {_named(best)} is the fastest that surely loses at most {bound * 100:.1f} points, predicted "
        f"{speedup_of(best['against_uncut'])} at {drop_of(best['against_uncut'])}."
    )


def _named(row: Row) -> str:
    return f"threshold {row['threshold']:g} with window {row['window']}"


def _by_stage(rows: Sequence[Row]) -> str:
    """The stage of which most is cut, over all rules."""
    cut = [row for row in rows if row["threshold"] is not None]
    mean = {stage: sum(row["stages"][stage]["cut"] for row in cut) / len(cut) for stage in cut[0]["stages"]}
    return (
        f"Over all rules {', '.join(f'{share:.1%} of the rows of {stage}' for stage, share in mean.items())} were cut."
    )


def _figure(rows: Sequence[Row], plans: Sequence[str]) -> Any:
    figure, axes = panels(2 * len(plans), width=3.3, share_y=False)
    windows = list(dict.fromkeys(row["window"] for row in rows if row["window"] is not None))
    for index, spec in enumerate(plans):
        lost, faster = axes[2 * index : 2 * index + 2]
        for shift, (window, colour) in enumerate(coloured(windows)):
            chosen = where(rows, of=spec, window=window)
            beside = [row["threshold"] + 0.006 * shift for row in chosen]  # so that intervals can be told apart
            against = [row["against_uncut"] for row in chosen]
            style = {"color": colour, **LINE}
            with_intervals(lost, beside, against, "accuracy_drop", scale=100, label=f"window {window}", **style)
            with_intervals(faster, beside, against, "predicted_speedup", **style)
        name_axes(lost, title=spec, x="threshold", y="accuracy lost against uncut, points")
        low, high = faster.get_ylim()
        faster.set_ylim(min(low, 0.95), max(high, 1.05))  # a hundredth of a percent should not look like a slope
        name_axes(faster, title=spec, x="threshold", y="predicted speed-up against uncut")
    legend(axes[0])
    return figure
