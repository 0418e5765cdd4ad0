"""Which part of the method brings the speed and which costs the accuracy: skipping, the exit rule, a budget and an
order of its own for every stage, compensation, and drafts, each on and off with all others.

A searched plan says how many sub-layers each stage skips. *By stage* that is what is skipped, in each stage's own
order; *global* is the mean of it in every stage, in one order for all stages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np

from litestage.comparison.results import estimate, sped
from litestage.config import RunConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import PREDICTED, Findings, Row
from litestage.experiment.panels import PALETTE, name_axes, panels, with_intervals
from litestage.experiment.texts import order_on, orders_on, own_texts, skipping
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, INTERVAL
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.profile.compensation import fit_compensation
from litestage.profile.forced import TeacherForced, about, pooled
from litestage.progress import each
from litestage.ranks import from_rank_zero
from litestage.report.wording import times
from litestage.session.workbench import Workbench
from litestage.stats.bootstrap import interval_of, resampled_sums

Levels = tuple[str, ...]
FACTORS = {
    "skip": ("off", "on"),
    "exit": ("off", "on"),
    "budgets": ("global", "by stage"),
    "compensation": ("none", "fitted"),
    "draft": ("off", "on"),
}
"""By factor, its two levels. Without skipping, budgets and compensation have none."""
RESAMPLES = 2000
NOTHING = ("off", "off", "", "", "off")


@dataclass
class Options(RunConfig):
    """Options of ``experiment factorial``. ``exit`` is the rule that is on or off.

    With ``latency_questions`` so many are answered one at a time, by the clock, and drafts are a fifth factor: what
    they bring cannot be predicted from token counts. They are kept in the stages where they pay. With 0 latency is
    predicted, and no plan has drafts.

    Attributes:
        form: of compensation: scale, affine, lowrank:K, linear or block.
        tokens: on about how many tokens of full depth's own texts orders and compensation are made.
    """

    form: str = "block"
    tokens: int = 2500


def run(bench: Workbench, config: Options) -> Findings:
    """Searches on the calibration split, then tries every combination on the test split."""
    at_least(1, tokens=config.tokens)
    if config.form in ("none", "merged"):
        raise LiteStageError(f"form is {config.form!r}, which is not fitted to a plan; give scale, linear or block.")
    StagePlan(compensation=config.form)  # a form that there is not is told before anything runs
    found = bench.search(replace(config.search, compensation="none", try_exits=False)).plan
    budgets = {stage: len(found[stage].skip) for stage in bench.pipeline.stage_names}
    plans, trials = _plans(bench, config, budgets), Trials.on_test(bench)
    rows: list[dict[str, Any]] = []
    for levels, plan in each("combinations on the test split", plans.items()):
        rows.append({**dict(zip(FACTORS, levels, strict=True)), **trials.row(plan)})
    correct = {levels: np.array(trials.correct(plan), dtype=float) for levels, plan in plans.items()}
    timed = config.latency_questions > 0
    seconds = _seconds(trials, plans, config.latency_questions)
    for row, own in zip(rows, seconds.values(), strict=True) if timed else ():
        row |= sped(seconds[NOTHING].tolist(), own.tolist(), "measured_speedup")
    effects = effects_of(correct, seconds)
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            **{factor: factor for factor in FACTORS},
            **COLUMNS,
            **({"by the clock [95 %]": lambda row: times(row, "measured_speedup")} if timed else {}),
        },
        shows=(_speed(effects, "by the clock" if timed else "predicted"), _accuracy(effects)),
        figure=_figure(effects),
        more={"effects": effects, "budgets": budgets, "form": config.form, "latency_questions": len(seconds[NOTHING])},
        latency="by the clock, one question at a time, interleaved, where it is an effect's; rows are predicted"
        if timed
        else PREDICTED,
    )


def _seconds(trials: Trials, plans: Mapping[Levels, Plan], timed: int) -> dict[Levels, np.ndarray]:
    """Seconds of every question under each plan: by the clock of the first ``timed``, predicted where that is 0."""
    if not timed:
        return {levels: np.array(trials.seconds(plan)) for levels, plan in plans.items()}
    seconds = trials.by_the_clock({"/".join(levels): plan for levels, plan in plans.items()}, timed)
    return {levels: np.array(seconds["/".join(levels)]) for levels in plans}


def _plans(bench: Workbench, config: Options, budgets: Mapping[str, int]) -> dict[Levels, Plan]:
    """Every combination of levels that is a plan of its own."""
    texts, most, mean = own_texts(bench), max(1, *budgets.values()), round(fmean(budgets.values()))
    every = pooled(texts, min(map(len, texts.values())))
    shared = order_on(bench, about(every, config.tokens), "outputs", most)
    bare = {
        "global": skipping(dict.fromkeys(budgets, shared), dict.fromkeys(budgets, mean)),
        "by stage": skipping(orders_on(bench, texts, config.tokens, most), budgets),
    }

    def fitted(stage: str, skip: SkipSet) -> StagePlan:
        def fit() -> StagePlan:
            forced = TeacherForced(bench.session.engine, about(texts[stage], config.tokens))
            tensors, _ = fit_compensation(forced, skip, config.form)
            return StagePlan(skip=skip, compensation=config.form, tensors=tensors)

        return from_rank_zero(fit) if len(skip) else StagePlan()

    full = Plan.full(bench.pipeline.stage_names)
    made: dict[Levels, Plan] = {NOTHING: full}
    for which, plan in bare.items():
        made["on", "off", which, "none", "off"] = plan
        made["on", "off", which, "fitted", "off"] = Plan(
            {stage: fitted(stage, of_stage.skip) for stage, of_stage in plan.stages.items()}
        )
    made |= {(levels[0], "on", *levels[2:]): bench.with_suffixes(plan, ["exit"]) for levels, plan in made.items()}
    if config.latency_questions:
        made |= {(*levels[:4], "on"): bench.with_suffixes(plan, ["lookup"]) for levels, plan in made.items()}
    return made


def _pairs(known: Mapping[Levels, Any], factor: str) -> Iterator[tuple[Levels, Levels]]:
    """Combinations that differ in this factor only, off and on. Skipping alone has nothing fitted."""
    place = list(FACTORS).index(factor)
    off, on = FACTORS[factor]
    for levels in known:
        if factor == "skip":
            if levels[0] == "on" and levels[3] == "none":
                yield ("off", levels[1], "", "", levels[4]), levels
        elif levels[place] == on:
            yield (*levels[:place], off, *levels[place + 1 :]), levels


def effects_of(correct: Mapping[Levels, np.ndarray], seconds: Mapping[Levels, np.ndarray]) -> list[dict[str, Any]]:
    """By factor, what its being on does to accuracy and to speed, over all levels of the others, with 95 % intervals.

    Accuracy gained is a mean of differences, the speed-up a geometric mean of ratios; a bootstrap draws questions.

    Args:
        correct, seconds: by combination, of every question; seconds may be of fewer questions.
    """
    names = list(correct)
    right = _resampled(np.array([correct[name] for name in names]))
    log_time = np.log(_resampled(np.array([seconds[name] for name in names])))
    wanted: dict[str, Callable[[Levels], bool]] = {factor: lambda on: True for factor in FACTORS}
    wanted["exit, where nothing is skipped"] = lambda on: on[0] == "off"
    wanted["exit, where sub-layers are skipped"] = lambda on: on[0] == "on"
    effects = []
    for name, counts in wanted.items():
        pairs = [pair for pair in _pairs(correct, name.partition(",")[0]) if counts(pair[1])]
        if not pairs:
            continue
        off, on = ([names.index(pair[side]) for pair in pairs] for side in (0, 1))
        gained = (right[:, on] - right[:, off]).mean(axis=1)
        faster = np.exp((log_time[:, off] - log_time[:, on]).mean(axis=1))
        effects.append(
            {
                "factor": name,
                "pairs": len(pairs),
                **estimate("accuracy_gained", *_with_interval(gained)),
                **estimate("speedup", *_with_interval(faster)),
            }
        )
    return effects


def _resampled(values: np.ndarray) -> np.ndarray:
    """Means over questions [1 + resamples, combinations] of values [combinations, questions]; first as they are."""
    drawn = resampled_sums(values, RESAMPLES)
    return np.asarray(np.hstack([values.sum(axis=1, keepdims=True), drawn]).T / values.shape[1])


def _with_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The first value, and the 95 % interval of the others, which holds it."""
    value = float(values[0])
    return value, interval_of(values[1:], value)


def _times(effect: Row) -> str:
    low, high = effect["speedup_ci95"]
    return f"{effect['factor']} {effect['speedup']:.2f} times ({INTERVAL} {low:.2f} to {high:.2f})"


def _speed(effects: Sequence[Row], how: str) -> str:
    slower = [effect["factor"] for effect in effects if effect["speedup_ci95"][1] < 1]
    note = f"; {', '.join(slower)} made answers slower" if slower else ""
    return f"Speed-up by what is on ({how}), over all levels of the others: {'; '.join(map(_times, effects))}{note}."


def _accuracy(effects: Sequence[Row]) -> str:
    parts = []
    for effect in effects:
        low, high = effect["accuracy_gained_ci95"]
        tells = "" if not low <= 0 <= high else ", which may be chance"
        interval = f"{INTERVAL} {low * 100:+.1f} to {high * 100:+.1f}"
        parts.append(f"{effect['factor']} {effect['accuracy_gained'] * 100:+.1f} points ({interval}{tells})")
    return f"Accuracy by what is on: {'; '.join(parts)}."


def _figure(effects: Sequence[Row]) -> Any:
    figure, (accuracy, speed) = panels(2, width=4.4, share_y=False)
    places = range(len(effects))
    style: dict[str, Any] = {"fmt": "o", "color": PALETTE[1]}
    with_intervals(accuracy, places, effects, "accuracy_gained", scale=100, **style)
    with_intervals(speed, places, effects, "speedup", **style)
    for axis, level in ((accuracy, 0), (speed, 1)):
        axis.axhline(level, color=PALETTE[-1], linewidth=0.8)
        axis.set_xticks(list(places), [effect["factor"].replace(", ", ",\n") for effect in effects], fontsize=7)
        axis.tick_params(axis="x", labelrotation=30)
    name_axes(accuracy, title="accuracy gained by it", y="points")
    name_axes(speed, title="speed-up by it", y="times")
    return figure
