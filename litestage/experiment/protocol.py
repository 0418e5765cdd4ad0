"""What it does to a reported drop that the plan was chosen on the test questions themselves: the paper seems to search
on what it reports on.

Candidates, drawn by lot, answer a pool of questions once. Then plans are chosen over and over, on questions drawn from
the pool with replacement: so the pool is all there is, and a plan's drop on all of it is the truth. The plan is chosen
either on the questions that its drop is then reported on, or on as many others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from litestage.config import RunConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.drawn import PLACES, RULES, Table, choose
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some
from litestage.experiment.panels import PALETTE, coloured, legend, name_axes, panels
from litestage.experiment.texts import orders_on, own_texts, skipping
from litestage.experiment.trials import Trials
from litestage.experiment.wording import distinct, only, where
from litestage.plan import Plan
from litestage.progress import each
from litestage.session.workbench import Workbench
from litestage.trace import Trace


@dataclass
class Options(RunConfig):
    """Options of ``experiment protocol``. ``questions`` are taken from the test split, and as many of the calibration
    split, from those that no sub-layer was ranked on.

    Attributes:
        candidates: how many plans are chosen from; each stage's budget is drawn, up to ``search.max_budget``.
        sizes: how many questions a plan is chosen on, and reported on.
        splits: how often they are drawn.
        tokens: on about how many tokens of full depth's own texts a stage's sub-layers are ranked.
    """

    candidates: int = 48
    sizes: list[int] = field(default_factory=lambda: [50, 100, 200, 400])
    splits: int = 2000
    tokens: int = 2000


def run(bench: Workbench, config: Options) -> Findings:
    """Answers the pool under every candidate, then chooses plans on draws from it."""
    at_least(1, candidates=config.candidates, splits=config.splits, tokens=config.tokens)
    some(sizes=config.sizes)
    at_least(2, sizes=min(config.sizes))
    test = bench.task.questions("test")[: config.questions]
    spare = bench.task.questions("calibration")[config.search.calibration :][: len(test)]
    if not spare:
        raise LiteStageError(
            f"search.calibration is {config.search.calibration}, which is the whole calibration split; give fewer, so "
            "that some of its questions are left to choose plans on."
        )
    trials = Trials(bench, [*test, *spare])
    plans = [trials.full, *_candidates(bench, config)]
    table = _table(trials, plans)
    bound = config.search.max_accuracy_drop
    rows = [
        {"chosen_on": place, "rule": rule, "questions": size, **found}
        for size in config.sizes
        for rule in RULES
        for place, found in choose(table, size, bound, rule, config.splits, config.seed).items()
    ]
    truth = table.lost.mean(axis=1)
    return Findings(
        split="test and calibration",
        questions=len(trials.questions),
        rows=rows,
        columns={
            "chosen on": lambda row: f"{row['chosen_on']} questions",
            **{"within bound": "rule", "questions": "questions"},
            "reported drop": lambda row: f"{row['reported_drop'] * 100:+.2f}",
            "true drop": lambda row: f"{row['true_drop'] * 100:+.2f}",
            "optimism, points\n[95 % of draws]": _optimistic,
            "breaks\nthe bound": lambda row: f"{row['breaks_bound']:.0%}",
            "reported\nspeed-up": lambda row: f"{row['reported_speedup']:.2f}x",
            "true\nspeed-up": lambda row: f"{row['true_speedup']:.2f}x",
        },
        shows=(_optimism(rows, bound, config.splits), _cure(rows, bound)),
        figure=_figure(rows, config.sizes),
        more={
            "bound": bound,
            "candidates": [
                {
                    "plan": plan.hash,
                    "skipped": [len(plan[stage].skip) for stage in bench.pipeline.stage_names],
                    "drop": float(drop),
                }
                for plan, drop in zip(plans, truth, strict=True)
            ],
            "within_the_bound": int((truth <= bound).sum()),
        },
        latency="not by a clock: a question's sub-layers that run one after another",
    )


def _candidates(bench: Workbench, config: Options) -> list[Plan]:
    """Plans of budgets drawn by stage, each stage's sub-layers in its own greedy order."""
    sublayers = 2 * bench.session.engine.decoder.layers
    most = sublayers // 2 if config.search.max_budget is None else config.search.max_budget
    if not 1 <= most <= sublayers:
        raise LiteStageError(f"search.max_budget is {most}; give 1 to {sublayers}, the model's sub-layers.")
    orders = orders_on(bench, own_texts(bench), config.tokens, most)
    draw = random.Random(config.seed)
    plans: dict[str, Plan] = {}
    for _ in range(100 * config.candidates):  # fewer where there are not so many
        budgets = {stage: draw.randint(0, most) for stage in orders}
        if any(budgets.values()):
            plan = skipping(orders, budgets)
            plans.setdefault(plan.hash, plan)
        if len(plans) == config.candidates:
            break
    return list(plans.values())


def _table(trials: Trials, plans: Sequence[Plan]) -> Table:
    full = np.array(trials.correct(trials.full), dtype=int)
    lost, passes = [], []
    sublayers = 2 * trials.bench.session.engine.decoder.layers
    for plan in each("candidates on the pool", plans):
        lost.append(full - np.array(trials.correct(plan), dtype=int))
        passes.append([_passes(plan, trace, sublayers) for trace in trials.traces(plan)])
    return Table(np.array(lost), np.array(passes, dtype=float))


def _passes(plan: Plan, trace: Trace, sublayers: int) -> int:
    """Sub-layers that a question waits for: those that run, for the prompt and for every token after the first."""
    return sum((sublayers - len(plan[stage.name].skip)) * stage.successive_tokens for stage in trace.stages)


def _optimistic(row: Row) -> str:
    low, high = row["optimism_ci95"]
    return f"{row['optimism'] * 100:+.2f} [{low * 100:+.1f}, {high * 100:+.1f}]"


def _said(row: Row) -> str:
    low, high = row["optimism_ci95"]
    return (
        f"reports a drop of {row['reported_drop'] * 100:.1f} points and truly loses {row['true_drop'] * 100:.1f}: "
        f"{row['optimism'] * 100:+.2f} points of optimism (95 % of draws {low * 100:+.1f} to {high * 100:+.1f})"
    )


def _optimism(rows: Sequence[Row], bound: float, splits: int) -> str:
    sizes = sorted(distinct(rows, "questions"))
    least, most = sizes[0], sizes[-1]
    first, other = (only(rows, chosen_on=place, rule="drop", questions=least) for place in PLACES)
    last = only(rows, chosen_on="test", rule="drop", questions=most)
    return (
        f"Over {splits} draws at a bound of {bound * 100:.1f} points: chosen on the {least} test questions that it is "
        f"reported on, a plan {_said(first)}; chosen on as many others it {_said(other)}; with {most} test questions "
        f"the optimism is {last['optimism'] * 100:+.2f} points."
    )


def _cure(rows: Sequence[Row], bound: float) -> str:
    """How often the bound is truly broken, and what a margin does about it and costs."""
    parts = []
    for questions in distinct(rows, "questions"):
        seen, limit = (only(rows, chosen_on="calibration", rule=rule, questions=questions) for rule in RULES)
        parts.append(
            f"on {questions} questions {seen['breaks_bound']:.0%} against {limit['breaks_bound']:.0%} "
            f"({seen['true_speedup']:.2f} against {limit['true_speedup']:.2f} times the speed)"
        )
    return (
        "Choosing on other questions mends the report, not the plan: where the drop that is seen must be within the "
        f"bound, the true one breaks it as often as this, against where its 90 % upper limit must: {'; '.join(parts)}."
    )


def _figure(rows: Sequence[Row], sizes: Sequence[int]) -> Any:
    figure, (optimism, broken) = panels(2, width=4.4, share_y=False)
    for place, colour in coloured(PLACES):
        for rule, style in zip(RULES, ("o-", "s--"), strict=True):
            chosen = where(rows, chosen_on=place, rule=rule)
            label, marks = f"{place}, {rule}", {"color": colour, "markersize": 4, "linewidth": 1.2}
            optimism.plot(sizes, [row["optimism"] * 100 for row in chosen], style, label=label, **marks)
            broken.plot(sizes, [row["breaks_bound"] * 100 for row in chosen], style, label=label, **marks)
    for axis in (optimism, broken):
        axis.set_xscale("log")
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.minorticks_off()
    optimism.axhline(0, color=PALETTE[-1], linewidth=0.8)
    x = "questions that the plan is chosen on"
    name_axes(optimism, title="true less reported drop, mean", x=x, y="points")
    name_axes(broken, title="draws whose plan truly breaks the bound", x=x, y="%")
    legend(broken)
    return figure
