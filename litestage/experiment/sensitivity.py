"""One stage at a time: how much accuracy each stage costs when only it skips (LiteStage, arXiv 2510.14211, motivates
its per-stage budgets so), under the paper's cosine ranking and under ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from litestage.config import RunConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some
from litestage.experiment.panels import over_budgets
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, distinct, drop_of, only, where
from litestage.plan import Plan
from litestage.progress import each
from litestage.session.workbench import Workbench

RANKINGS = {"cosine": "global", "cosine_per_stage": "per_stage", "fidelity": "fidelity"}


@dataclass
class Options(RunConfig):
    """Options of ``experiment sensitivity``.

    Attributes:
        rankings: cosine (the paper's), cosine_per_stage, fidelity.
        step: every how many budgets one is tried, up to ``search.max_budget``, half of the sub-layers unless given.
    """

    rankings: list[str] = field(default_factory=lambda: ["cosine", "fidelity"])
    step: int = 2


def run(bench: Workbench, config: Options) -> Findings:
    """Tries every budget of every stage alone, on the test split; the rankings come from the calibration split."""
    at_least(1, step=config.step)
    some(RANKINGS, rankings=config.rankings)
    trials, rows = Trials.on_test(bench), []
    for ranking in config.rankings:
        ladders = bench.calibrated().ladders(RANKINGS[ranking])
        most = min(map(len, ladders.values())) - 1
        if config.step > most:
            raise LiteStageError(f"step is {config.step}, which leaves nothing to skip; give at most {most}.")
        budgets = [(stage, at) for stage, ladder in ladders.items() for at in range(0, len(ladder), config.step)]
        before = trials.full
        for stage, budget in each(f"{ranking}, one stage at a time", budgets):
            plan = Plan({**trials.full.stages, stage: ladders[stage][budget]})
            trials.traces(plan, [before if budget else trials.full])
            rows.append({"ranking": ranking, "stage": stage, "budget": budget, **trials.row(plan)})
            before = plan
    sublayers = 2 * bench.session.engine.decoder.layers
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            "ranking, stage": lambda row: f"{row['ranking']}, {row['stage']}",
            "skipped": "budget",
            **COLUMNS,
        },
        shows=(what_stages_bear(rows, config.rankings[0], sublayers), _rankings(rows, config.rankings, sublayers)),
        figure=over_budgets(rows, config.rankings, "accuracy_drop", title="only {} skips", y="accuracy lost, points"),
        more={"sublayers": sublayers},
    )


def first_certain_loss(rows: Sequence[Row]) -> Row | None:
    """The row of least budget whose drop's interval lies above zero."""
    losing = [row for row in rows if row["accuracy_drop_ci95"][0] > 0]
    return min(losing, key=lambda row: row["budget"], default=None)


def what_stages_bear(rows: Sequence[Row], ranking: str, sublayers: int) -> str:
    """Which stage bears least and which most, under one ranking."""
    first = {stage: first_certain_loss(where(rows, ranking=ranking, stage=stage)) for stage in distinct(rows, "stage")}
    most = max(row["budget"] for row in rows)
    parts = []
    for stage, row in sorted(first.items(), key=lambda item: item[1]["budget"] if item[1] else most + 1):
        if row is None:
            parts.append(f"{stage} does not measurably lose up to {most}")
        else:
            more = [later for later in where(rows, ranking=ranking, stage=stage) if later["budget"] > row["budget"]]
            but = ", ".join(str(later["budget"]) for later in more if later["accuracy_drop_ci95"][0] <= 0)
            parts.append(
                f"{stage} loses measurably from {row['budget']} on, {drop_of(row)}"
                + (f", but not at {but}" if but else "")
            )
    return f"Of {sublayers} sub-layers skipped in one stage only, by {ranking}: {'; '.join(parts)}."


def _rankings(rows: Sequence[Row], rankings: Sequence[str], sublayers: int) -> str:
    """What the last ranking bears against the first; with one ranking, where skipping made a plan slower."""
    slower = [row for row in rows if row["predicted_speedup_ci95"][1] < 1]
    inversion = (
        f"{len(slower)} of {len(rows)} plans are predicted slower than full depth (latency inversion)"
        if slower
        else "no plan is predicted slower than full depth"
    )
    if len(rankings) < 2:
        return f"{inversion[0].upper()}{inversion[1:]}."
    most = max(row["budget"] for row in rows)
    parts = []
    for stage in distinct(rows, "stage"):
        a, b = (only(rows, ranking=name, stage=stage, budget=most) for name in rankings[:2])
        parts.append(f"{stage} {drop_of(a)} against {drop_of(b)}")
    return f"At {most} skipped, {rankings[0]} loses against {rankings[1]}: {'; '.join(parts)}; and {inversion}."
