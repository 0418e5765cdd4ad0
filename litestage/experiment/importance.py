"""Does cosine importance predict what skipping a sub-layer really does? Every sub-layer is skipped alone, in one stage
only, and the damage on the test split is set beside what cosine (LiteStage, AdaSkip) and fidelity (ours) expect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from litestage.comparison.results import estimate
from litestage.config import RunConfig
from litestage.errors import at_least
from litestage.experiment.findings import NO_CLOCK, Findings, Row
from litestage.experiment.panels import PALETTE, legend, name_axes, panels
from litestage.experiment.texts import own_texts
from litestage.experiment.trials import Trials
from litestage.experiment.wording import INTERVAL, drop_of, only, where
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.profile.forced import Sequenced, TeacherForced, about
from litestage.progress import each
from litestage.ranks import from_rank_zero
from litestage.session.workbench import Workbench
from litestage.stats.bootstrap import interval_of, resampled_sums
from litestage.stats.proportion import share_of_texts

SCORES = ("cosine", "fidelity")
"""What expects damage: 1 less the cosine, and the rise in harm; both larger where more is expected."""
DAMAGES = {"accuracy_drop": "accuracy lost", "answers_changed": "answers changed", "texts_changed": "texts changed"}
ALL = "all stages"
RESAMPLES = 2000


@dataclass
class Options(RunConfig):
    """Options of ``experiment importance``.

    Attributes:
        tokens: on about how many tokens of full depth's own texts a stage's fidelity is measured.
    """

    tokens: int = 4000


def run(bench: Workbench, config: Options) -> Findings:
    """Skips every sub-layer of every stage alone; what is expected of it comes from the calibration split."""
    at_least(1, tokens=config.tokens)
    trials, stages = Trials.on_test(bench), bench.pipeline.stage_names
    names = bench.session.engine.decoder.sublayers
    cosine = bench.session.importance(bench.calibration(), bench.pipeline).cosine
    texts = own_texts(bench)
    rises = from_rank_zero(lambda: {stage: _rises(bench, about(texts[stage], config.tokens)) for stage in stages})
    rows: list[dict[str, Any]] = []
    counts: dict[str, list[_Counts]] = {damage: [] for damage in DAMAGES}
    alone = [(stage, place, name) for stage in stages for place, name in enumerate(names)]
    for stage, place, name in each("each sub-layer skipped alone", alone):
        plan = Plan({**trials.full.stages, stage: StagePlan(skip=SkipSet.of([name]))})
        answers, hits = trials.answers(plan), _hits(trials, plan, stage)
        for damage, of in hits.items():
            counts[damage].append(of)
        rows.append(
            {
                "stage": stage,
                "sublayer": f"{name[0]}.{name[1]}",
                "cosine": 1 - cosine[stage][name],
                "fidelity": rises[stage][place],
                "answers_changed": 1 - answers["agreement"],
                "answers_changed_ci95": [1 - limit for limit in reversed(answers["agreement_ci95"])],
                **estimate("texts_changed", *share_of_texts(*hits["texts_changed"])),
                **answers,
            }
        )
    correlations = _correlations(rows, counts, stages)
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={"stage": "stage", "expected by": "score"}
        | {f"{name}\nSpearman [95 %]": damage for damage, name in DAMAGES.items()},
        shown=[
            {"stage": stage, "score": score}
            | {damage: _shown(only(correlations, stage=stage, score=score, damage=damage)) for damage in DAMAGES}
            for stage in (*stages, ALL)
            for score in SCORES
        ],
        shows=(_ranks(correlations), _first_harmful(rows, stages)),
        figure=_figure(rows, stages),
        more={"correlations": correlations, "sublayers": len(names)},
        latency=NO_CLOCK,
    )


_Counts = tuple[list[int], list[int]]
"""By question: how much was damaged, and of how much."""


def _rises(bench: Workbench, sequences: Sequence[Sequenced]) -> list[float]:
    """By sub-layer, what leaving it out adds to the harm of full depth's own texts (TeacherForced.harm)."""
    forced = TeacherForced(bench.session.engine, sequences)
    nothing = forced.harm(forced.streams[-1])
    return [
        forced.harm(forced.after(SkipSet.of([name]), place)[-1]) - nothing
        for place, name in enumerate(forced.decoder.sublayers)
    ]


def _hits(trials: Trials, plan: Plan, stage: str) -> dict[str, _Counts]:
    """By damage, what the plan did to every question; of texts, those of the stage that skips."""
    index, ones = trials.bench.pipeline.stage_names.index(stage), [1] * len(trials.questions)
    pairs = list(zip(trials.traces(trials.full), trials.traces(plan), strict=True))
    ids = [(full.stages[index].token_ids, found.stages[index].token_ids) for full, found in pairs]
    texts = [list(zip(*both, strict=True)) for both in ids]
    return {
        "accuracy_drop": ([int(bool(full.correct)) - int(bool(found.correct)) for full, found in pairs], ones),
        "answers_changed": ([int(full.answer != found.answer) for full, found in pairs], ones),
        "texts_changed": ([sum(a != b for a, b in of) for of in texts], [len(of) for of in texts]),
    }


def _correlations(
    rows: Sequence[Row], counts: Mapping[str, Sequence[_Counts]], stages: Sequence[str]
) -> list[dict[str, Any]]:
    found = []
    for stage in (*stages, ALL):
        at = [index for index, row in enumerate(rows) if stage in (row["stage"], ALL)]
        for score in SCORES:
            for damage in DAMAGES:
                rho, interval = rank_correlation(
                    [rows[index][score] for index in at],
                    [counts[damage][index][0] for index in at],
                    [counts[damage][index][1] for index in at],
                )
                entry = {"stage": stage, "score": score, "damage": damage, "spearman": rho}
                found.append(entry if interval is None else {**entry, "spearman_ci95": list(interval)})
    return found


def rank_correlation(
    scores: Sequence[float], hits: Sequence[Sequence[int]], of: Sequence[Sequence[int]]
) -> tuple[float | None, tuple[float, float] | None]:
    """Spearman's rank correlation of scores with damages, and its 95 % bootstrap interval.

    Both sub-layers and questions are drawn anew: which sub-layers a model has is as much chance as what it is asked.

    Args:
        scores: of every sub-layer.
        hits, of: by sub-layer and question, how much was damaged, and of how much [sub-layers, questions].

    Returns:
        None where every sub-layer does the same damage, so that there is nothing to rank.
    """
    score, hit, whole = np.array(scores), np.array(hits, dtype=float), np.array(of, dtype=float)
    rho = _spearman(score[None], (hit.sum(axis=1) / whole.sum(axis=1))[None])[0]
    if np.isnan(rho):
        return None, None
    hits_drawn, whole_drawn = np.split(resampled_sums(np.vstack([hit, whole]), RESAMPLES).T, 2, axis=1)
    damage = hits_drawn / np.maximum(whole_drawn, 1)  # [resamples, sub-layers]
    chosen = np.random.default_rng([0, 1]).integers(0, len(score), damage.shape)
    resampled = _spearman(score[chosen], np.take_along_axis(damage, chosen, axis=1))
    return float(rho), interval_of(resampled, float(rho))


def _spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """By row, of [rows, values] both; not a number where one of them is constant."""
    a, b = (rankdata(values, axis=1) for values in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.asarray(np.divide((a * b).sum(axis=1), spread, out=np.full(len(a), np.nan), where=spread > 0))


def _shown(row: Row) -> str:
    if row["spearman"] is None:
        return "no damage differs"
    low, high = row["spearman_ci95"]
    return f"{row['spearman']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _ranks(correlations: Sequence[Row]) -> str:
    """How both scores rank answers and texts over all stages, and which of the paper's ranks tell nothing."""
    parts = []
    for damage in ("answers_changed", "texts_changed"):
        both = [f"{_shown(only(correlations, stage=ALL, score=score, damage=damage))} with {score}" for score in SCORES]
        parts.append(f"{DAMAGES[damage]} {' and '.join(both)}")
    by_stage = [row for row in correlations if row["stage"] != ALL and row["score"] == "cosine"]
    lost = [row for row in by_stage if row["damage"] == "answers_changed"]
    unsure = [row["stage"] for row in lost if row["spearman"] is None or row["spearman_ci95"][0] <= 0]
    blind = (
        f"cosine's rank correlation with answers changed is not measurably above 0 in {', '.join(unsure)}"
        if unsure
        else "cosine's rank correlation with answers changed is above 0 in every stage"
    )
    return f"Over all stages' sub-layers, Spearman's rank correlation [{INTERVAL}]: {'; '.join(parts)}; {blind}."


def _first_harmful(rows: Sequence[Row], stages: Sequence[str]) -> str:
    """In each stage, how soon each ranking would skip a sub-layer that measurably costs accuracy when skipped alone."""
    parts = []
    for stage in stages:
        of_stage = where(rows, stage=stage)
        harmful = [row for row in of_stage if row["accuracy_drop_ci95"][0] > 0]
        if not harmful:
            parts.append(f"{stage} has none")
            continue
        first = {
            score: min(sorted(of_stage, key=lambda row: row[score]).index(row) + 1 for row in harmful)
            for score in SCORES
        }
        worst = max(harmful, key=lambda row: row["accuracy_drop"])
        places = " and ".join(f"number {place} by {score}" for score, place in first.items())
        parts.append(
            f"{stage} has {len(harmful)}, the first of them {places}, the worst {worst['sublayer']}, {drop_of(worst)}"
        )
    return (
        f"Sub-layers that measurably cost accuracy when they alone are skipped, of {len(rows) // len(stages)} in each "
        f"stage, in the order of skipping: {'; '.join(parts)}."
    )


def _figure(rows: Sequence[Row], stages: Sequence[str]) -> Any:
    figure, axes = panels(2 * len(stages), width=2.9, height=3.2)
    for index, stage in enumerate(stages):
        for axis, score in zip(axes[2 * index : 2 * index + 2], SCORES, strict=True):
            for kind, colour in zip(("mhsa", "ffn"), PALETTE[1:], strict=False):
                chosen = [row for row in where(rows, stage=stage) if row["sublayer"].startswith(kind)]
                x, y = [row[score] for row in chosen], [row["answers_changed"] * 100 for row in chosen]
                axis.scatter(x, y, s=16, color=colour, alpha=0.8, label=kind)
            name_axes(axis, title=f"only {stage} skips", x={"cosine": "1 - cosine", "fidelity": "rise in harm"}[score])
    name_axes(axes[0], y="answers changed, %")
    legend(axes[0])
    return figure
