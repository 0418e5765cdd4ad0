"""Calibration before search: what sub-layers are ranked on (full depth's own outputs, gold texts, plain text) and by
what (whole outputs, fidelity, perplexity, accuracy), and what the plans that follow do at equal budgets.

At the same calibration data searches differ little, and perplexity and accuracy rank plans differently (arXiv
2604.24938); for reasoning, calibration on what the model itself writes is best (arXiv 2512.02185, 2511.18864).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import fmean
from typing import Any

from litestage.config import RunConfig
from litestage.errors import at_least
from litestage.experiment.findings import NO_CLOCK, Findings, Row
from litestage.experiment.options import some, sublayer_budgets
from litestage.experiment.panels import coloured, legend, name_axes, panels, with_intervals
from litestage.experiment.texts import (
    OBJECTIVES,
    Orders,
    gold_rows,
    gold_texts,
    orders_on,
    own_texts,
    plain_text,
    skipping,
)
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, distinct, drop_of, either_way, where
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.plan.skip import SubLayerName
from litestage.profile.forced import Sequenced
from litestage.progress import bar, each
from litestage.report.wording import signed_points
from litestage.session.workbench import Workbench
from litestage.stats import wilson_interval

COSINE, ACCURACY = "cosine", "accuracy"
TEXTS = ("gold", "plain", "own")  # files first: a mistake is told before anything runs
RANKINGS = (*(f"{text}/{objective}" for text in TEXTS for objective in OBJECTIVES), ACCURACY, COSINE)


@dataclass
class Options(RunConfig):
    """Options of ``experiment calibration``.

    Attributes:
        rankings: ``TEXT/OBJECTIVE`` with the text ``own``, ``gold`` or ``plain`` and the objective ``outputs`` (ours),
            ``fidelity`` or ``perplexity``; ``accuracy`` on the calibration questions; ``cosine``. The first is what
            all others are held against.
        budgets: sub-layers skipped in every stage.
        tokens: on about how many tokens a stage's sub-layers are ranked.
        gold: staged JSONL with the gold texts of the task's calibration split; a menagerie task has its own.
        plain: a text file; the calibration questions themselves, one after the other, unless given.
    """

    rankings: list[str] = field(
        default_factory=lambda: [
            *("own/outputs", "own/fidelity", "own/perplexity", "gold/fidelity", "gold/perplexity"),
            *("plain/fidelity", "plain/perplexity", ACCURACY, COSINE),
        ]
    )
    budgets: list[int] = field(default_factory=lambda: [4, 8])
    tokens: int = 2000
    gold: str | None = None
    plain: str | None = None


def run(bench: Workbench, config: Options) -> Findings:
    """Ranks on the calibration split, and tries every ranking at every budget on the test split."""
    some(RANKINGS, rankings=config.rankings)
    sublayer_budgets(bench, config.budgets)
    at_least(1, tokens=config.tokens)
    asked = {ranking.partition("/")[0] for ranking in config.rankings}
    texts = {name: _texts(bench, config, name) for name in TEXTS if name in asked}
    orders = {ranking: _orders(bench, config, ranking, texts, max(config.budgets)) for ranking in config.rankings}
    trials = Trials.on_test(bench)
    plans = {
        (ranking, budget): skipping(by, dict.fromkeys(by, budget))
        for ranking, by in orders.items()
        for budget in config.budgets
    }
    rows = []
    for (ranking, budget), plan in each("plans on the test split", plans.items()):
        compared = trials.behind(plan, plans[config.rankings[0], budget], "behind_first")
        right = sum(trials.correct(plan))
        interval = {"accuracy_ci95": list(wilson_interval(right, len(trials.questions)))}
        rows.append({"ranking": ranking, "budget": budget, **trials.answers(plan), **interval, **compared})
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            **{"ranked on / by": "ranking", "skipped in\neach stage": "budget"},
            **{name: COLUMNS[name] for name in ("accuracy", "drop, points [95 %]", "same answers")},
            f"behind {config.rankings[0]},\npoints [95 %]": lambda row: signed_points(row, "behind_first"),
        },
        shows=(_best(rows, config.rankings), _texts_and_objectives(rows, config.rankings[0])),
        figure=_figure(rows, config.rankings, config.budgets),
        more={
            "orders": {
                ranking: {stage: [f"{kind}.{layer}" for kind, layer in order] for stage, order in by.items()}
                for ranking, by in orders.items()
            },
            "own_texts_that_are_gold": _same(texts),
            "plain_text": None if "plain" not in texts else config.plain or "the calibration questions",
        },
        latency=NO_CLOCK,
    )


def _texts(bench: Workbench, config: Options, name: str) -> dict[str, list[Sequenced]]:
    """By stage, what sub-layers are ranked on."""
    if name == "own":
        return own_texts(bench)
    if name == "gold":
        return gold_texts(bench, gold_rows(bench, config.gold))
    return dict.fromkeys(bench.pipeline.stage_names, plain_text(bench, config.plain))


def _orders(
    bench: Workbench,
    config: Options,
    ranking: str,
    texts: Mapping[str, Mapping[str, list[Sequenced]]],
    budget: int,
) -> Orders:
    """By stage, the first ``budget`` sub-layers to skip."""
    if ranking == COSINE:
        order = bench.session.importance(bench.calibration(), bench.pipeline).ranking()
        return dict.fromkeys(bench.pipeline.stage_names, order[:budget])
    if ranking == ACCURACY:
        return {stage: _by_accuracy(bench, stage, budget) for stage in bench.pipeline.stage_names}
    text, _, objective = ranking.partition("/")
    return orders_on(bench, texts[text], config.tokens, budget, objective)


def _by_accuracy(bench: Workbench, stage: str, budget: int) -> list[SubLayerName]:
    """The greedy order by wrong answers on the calibration questions while only this stage skips.

    Lazily, as :func:`litestage.profile.greedy.greedy_order`. With few questions most sub-layers seem to do nothing;
    between those, and in whatever order they are looked at, lots decide: accuracy knows no better.
    """
    trials = Trials(bench, bench.calibration())
    names = bench.session.engine.decoder.sublayers
    random.Random(bench.config.seed).shuffle(names)
    dropped: list[SubLayerName] = []
    rises = dict.fromkeys(names, -inf)
    wrong = _wrong(trials, stage, dropped)
    with bar(f"{stage}: sub-layers ranked by accuracy", budget) as advance:
        while len(dropped) < budget:
            measured: set[SubLayerName] = set()
            while (best := min(rises, key=lambda name: (rises[name], name not in measured))) not in measured:
                rises[best] = _wrong(trials, stage, [*dropped, best]) - wrong
                measured.add(best)
            dropped.append(best)
            wrong += rises.pop(best)
            advance(1)
    return dropped


def _wrong(trials: Trials, stage: str, names: Sequence[SubLayerName]) -> float:
    plan = Plan({**trials.full.stages, stage: StagePlan(skip=SkipSet.of(names))})
    return 1 - fmean(trials.correct(plan))


def _same(texts: Mapping[str, Mapping[str, list[Sequenced]]]) -> dict[str, float] | None:
    """By stage, the share of full depth's own outputs that are gold texts, token by token."""
    if "own" not in texts or "gold" not in texts:
        return None
    found = {}
    for stage, sequences in texts["own"].items():
        gold = {(tuple(prompt), tuple(output)) for prompt, output in texts["gold"][stage]}
        found[stage] = fmean((tuple(prompt), tuple(output)) in gold for prompt, output in sequences)
    return found


def _best(rows: Sequence[Row], rankings: Sequence[str]) -> str:
    parts = []
    for budget in distinct(rows, "budget"):
        of = sorted(where(rows, budget=budget), key=lambda row: row["accuracy_drop"])
        best, worst = of[0], of[-1]
        parts.append(
            f"at {budget} {best['ranking']} loses least, {drop_of(best)}, and {worst['ranking']} most, {drop_of(worst)}"
        )
    return f"With as many sub-layers skipped in every stage, of {len(rankings)} rankings {'; '.join(parts)}."


def _texts_and_objectives(rows: Sequence[Row], first: str) -> str:
    """Which rankings can be told from the first, at the budget at which most can."""

    def told(budget: int) -> list[Row]:
        return [
            row
            for row in where(rows, budget=budget)
            if row["ranking"] != first and not row["behind_first_ci95"][0] <= 0 <= row["behind_first_ci95"][1]
        ]

    budget = max(distinct(rows, "budget"), key=lambda budget: len(told(budget)))
    differing = told(budget)
    named = {first, *distinct(differing, "ranking")}
    others = [ranking for ranking in distinct(where(rows, budget=budget), "ranking") if ranking not in named]
    if len(distinct(rows, "ranking")) == 1:
        return "No other ranking was asked for."
    if not differing:
        return f"No ranking can be told from {first} at any budget: what is measured matters less than chance here."
    parts = [
        f"{row['ranking']} is {'behind' if row['behind_first'] > 0 else 'ahead'} by {either_way(row, 'behind_first')}"
        for row in differing
    ]
    rest = f"; {', '.join(others)} cannot be told from it" if others else ""
    return f"Against {first} at {budget}: {'; '.join(parts)}{rest}."


def _figure(rows: Sequence[Row], rankings: Sequence[str], budgets: Sequence[int]) -> Any:
    figure, (axis,) = panels(1, width=3 + 0.8 * len(rankings), height=3.8)
    for shift, (budget, colour) in enumerate(coloured(budgets)):
        chosen = where(rows, budget=budget)
        beside = [index + 0.12 * shift for index in range(len(chosen))]
        label = f"{budget} skipped in every stage"
        with_intervals(axis, beside, chosen, "accuracy", scale=100, fmt="o", color=colour, markersize=4, label=label)
    axis.set_xticks(range(len(rankings)), [ranking.replace("/", "/\n") for ranking in rankings], fontsize=8)
    name_axes(axis, y="accuracy, %")
    legend(axis)
    return figure
