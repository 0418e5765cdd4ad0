"""Plans searched in one setting (a task and a pipeline) and used in all others: other questions, other numbers of
options, and pipelines of one, two or more stages, iterative ones among them.

A stage takes the plan of the stage of the same name; one that the other pipeline does not have runs at full depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from litestage.config import RunConfig
from litestage.data import load_task
from litestage.errors import LiteStageError
from litestage.experiment.findings import Findings, Row
from litestage.experiment.panels import PALETTE, name_axes, panels
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, drop_of, skipped
from litestage.plan import Plan
from litestage.progress import each
from litestage.session.workbench import Workbench
from litestage.stats import Bound, wilson_interval


@dataclass
class Options(RunConfig):
    """Options of ``experiment transfer``.

    Attributes:
        others: settings beside the command's own task and pipeline: ``TASK``, or ``TASK@PIPELINE`` for another than the
            task's own.
    """

    others: list[str] = field(default_factory=list)


def run(bench: Workbench, config: Options) -> Findings:
    """Searches in every setting on its calibration split, and tries every plan on every setting's test split."""
    benches = settings(bench, config)
    trials = {name: Trials.on_test(of) for name, of in benches.items()}
    plans = {name: setting.search().plan for name, setting in benches.items()}
    rows = []
    pairs = [(used, of) for used in benches for of in benches if _shared(plans[of], benches[used])]
    for used, of in each("plans on every setting's test split", pairs):
        rows.append(_row(trials[used], plans[of], plans[used], of, used, own=benches[used]))
    least = min(len(of.questions) for of in trials.values())
    return Findings(
        questions=least,
        rows=rows,
        columns={
            "used on": "used_on",
            "plan of": lambda row: "its own" if row["of"] == row["used_on"] else str(row["of"]),
            "skipped": skipped,
            "full depth": lambda row: f"{row['full_accuracy']:.1%}",
            **COLUMNS,
        },
        shows=(_own(rows), _others(rows, Bound(config.search.max_accuracy_drop, on=config.search.bound))),
        figure=_figure(rows, list(benches)),
        more={
            "settings": {
                name: {"task": of.task.name, "pipeline": of.pipeline.name, "stages": list(of.pipeline.stage_names)}
                for name, of in benches.items()
            },
            "bound": config.search.max_accuracy_drop,
            "bounded": config.search.bound,
        },
    )


def settings(bench: Workbench, config: Options) -> dict[str, Workbench]:
    """The command's own setting first, then the others, by name, on the same loaded model.

    Raises:
        LiteStageError: none other is given, one is given twice, or there is no such task or pipeline.
    """
    if not config.others:
        raise LiteStageError("others is empty; give at least one setting to transfer to, such as others=[csqa].")
    found = {_name(bench.task.name, bench.pipeline.name if config.pipeline else None): bench}
    for given in config.others:
        name, _, through = given.partition("@")
        task = replace(load_task(name), seed=config.seed)
        chosen = through or config.model.pipeline
        pipeline = task.through(chosen, config.analyze, config.model.chat_template)
        limits = {stage: limit for stage, limit in config.max_new_tokens.items() if stage in pipeline.stage_names}
        label = _name(task.name, pipeline.name if through else None)
        if label in found:
            raise LiteStageError(f"others has {label!r}, which is there already; name every setting once.")
        found[label] = replace(bench, task=task, pipeline=pipeline.with_limits(limits))
    return found


def _name(task: str, pipeline: str | None) -> str:
    return task if pipeline is None else f"{task}@{pipeline}"


def _shared(plan: Plan, bench: Workbench) -> list[str]:
    return [stage for stage in bench.pipeline.stage_names if stage in plan.stages]


def _row(trials: Trials, plan: Plan, own_plan: Plan, of: str, used: str, own: Workbench) -> dict[str, Any]:
    """One plan in one setting, beside full depth and beside the plan that was searched there."""
    shared = _shared(plan, own)
    moved = Plan({stage: plan[stage] for stage in shared})
    full = trials.correct(trials.full)
    chance = fmean(1 / len(question.options) for question in trials.questions)
    return {
        "of": of,
        "used_on": used,
        "stages_with_a_plan": f"{len(shared)} of {len(own.pipeline.stages)}",
        "full_accuracy": fmean(full),
        "above_chance": wilson_interval(sum(full), len(full))[0] > chance,
        **trials.behind(moved, own_plan, "behind_own"),
        **trials.row(moved),
    }


def _own(rows: Sequence[Row]) -> str:
    """What each setting's own plan does there, and where full depth itself only guesses."""
    parts = [
        f"{row['used_on']} ({len(row['stages'])} stages, {row['full_accuracy']:.0%} right at full depth) loses "
        f"{drop_of(row)} at {row['predicted_speedup']:.2f} times the speed"
        for row in rows
        if row["of"] == row["used_on"]
    ]
    guessing = list(dict.fromkeys(row["used_on"] for row in rows if not row["above_chance"]))
    note = f" On {', '.join(guessing)} full depth is not above chance, so that no bound means anything there."
    return f"Under its own plan {'; '.join(parts)}.{note if guessing else ''}"


def _others(rows: Sequence[Row], bound: Bound) -> str:
    """What plans of other settings do, where full depth is above chance."""
    moved = [row for row in rows if row["of"] != row["used_on"] and row["above_chance"]]
    if not moved:
        return "No plan could be used in another setting in which full depth is above chance."
    lost = [row["accuracy_drop"] if bound.on == "accuracy" else 1 - row["agreement"] for row in moved]
    within = sum(loss <= bound.most + 1e-12 for loss in lost)  # 1 - 0.98 is above 0.02
    behind = [row for row in moved if row["behind_own_ci95"][0] > 0]
    worst = max(moved, key=lambda row: row["accuracy_drop"])
    measurably = "none is" if not behind else f"{len(behind)} are"
    return (
        f"Of {len(moved)} plans used in a setting they were not searched in, {within} "
        f"{bound.in_words('lose', 'change')} there, and {measurably} measurably behind the setting's own plan; the "
        f"worst, of {worst['of']} on {worst['used_on']}, loses {drop_of(worst)}, "
        f"{drop_of(worst, 'behind_own')} more than the own plan."
    )


def _figure(rows: Sequence[Row], names: Sequence[str]) -> Any:
    from matplotlib.patches import Rectangle

    figure, (axis,) = panels(1, width=2.6 + 1.1 * len(names), height=1.6 + 0.7 * len(names))
    axis.grid(visible=False)
    for row in rows:
        x, y = names.index(row["used_on"]), names.index(row["of"])
        red = min(0.75, 4 * max(0.0, row["accuracy_drop"]))
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, color=PALETTE[0], alpha=red, linewidth=0))
        text = f"{row['accuracy_drop'] * 100:+.1f}\n{row['predicted_speedup']:.2f}x"
        axis.annotate(text, (x, y), ha="center", va="center", fontsize=8)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_ylim(len(names) - 0.5, -0.5)
    short = [name.replace("@", "\n") for name in names]
    axis.set_xticks(range(len(names)), short, fontsize=7)
    axis.set_yticks(range(len(names)), short, fontsize=7)
    title = "points of accuracy lost (the redder the more), predicted speed-up"
    name_axes(axis, title=title, x="used on", y="plan searched on")
    return figure
