"""How many texts end in a loop, by stage and budget: skipping makes models repeat themselves until the limit, even
where accuracy stays (FOCUS & RePAIR, ICML 2026), and every repeated token is time lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from litestage.comparison.results import estimate
from litestage.config import RunConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import NO_CLOCK, Findings, Row
from litestage.experiment.options import some, sublayer_budgets
from litestage.experiment.panels import over_budgets
from litestage.experiment.texts import orders_on, own_texts, skipping
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, INTERVAL, distinct, drop_of, percent_of, where
from litestage.methods.setting import NotThisBudget
from litestage.plan import Plan
from litestage.progress import each
from litestage.report.wording import percent
from litestage.session.workbench import Workbench
from litestage.stats.proportion import share_of_texts

FULL, FIDELITY = "full", "fidelity"
SHORTEST = 4
"""Tokens of the shortest text that counts as repeated; shorter cycles count once they fill as much."""
TIMES = 3
"""How often in a row it must be there."""


@dataclass
class Options(RunConfig):
    """Options of ``experiment loops``.

    Attributes:
        rankings: uniform, cosine (the paper's), fidelity (each stage's own greedy order).
        budgets: sub-layers skipped in every stage.
        tokens: on about how many tokens of full depth's own texts a stage's fidelity is measured.
    """

    rankings: list[str] = field(default_factory=lambda: ["uniform", "cosine", FIDELITY])
    budgets: list[int] = field(default_factory=lambda: [2, 4, 6, 8, 10, 12])
    tokens: int = 2000


def run(bench: Workbench, config: Options) -> Findings:
    """Tries every ranking at every budget, the same in all stages, on the test split."""
    plans, trials = plans_by_ranking(bench, config.rankings, config.budgets, config.tokens), Trials.on_test(bench)
    rows: list[dict[str, Any]] = []
    for (ranking, budget), plan in each("plans on the test split", {(FULL, 0): trials.full, **plans}.items()):
        traces, answers = trials.traces(plan), trials.answers(plan)
        for index, stage in enumerate(bench.pipeline.stage_names):
            of = [trace.stages[index] for trace in traces]
            texts = [len(one.stops) for one in of]
            looping = [sum(map(loops, one.token_ids, one.stops)) for one in of]
            rows.append(
                {
                    **{"ranking": ranking, "budget": budget, "stage": stage},
                    **estimate("looping", *share_of_texts(looping, texts)),
                    **estimate("at_the_limit", *share_of_texts([one.stops.count("length") for one in of], texts)),
                    **answers,
                }
            )
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            **{"ranking": "ranking", "skipped": "budget"},
            **{name: COLUMNS[name] for name in ("accuracy", "drop, points [95 %]", "same answers", "tokens")},
            "looping, % [95 %]": lambda row: " / ".join(
                percent(of_stage, "looping") for of_stage in where(rows, ranking=row["ranking"], budget=row["budget"])
            ),
        },
        shown=where(rows, stage=bench.pipeline.stage_names[0]),
        shows=(_most(rows), _where_accuracy_stays(rows)),
        figure=over_budgets(rows, config.rankings, "looping", title="{}", y="texts that end in a loop, %"),
        more={"definition": f"the last {SHORTEST} tokens or more stand there {TIMES} times in a row at the limit"},
        latency=NO_CLOCK,
    )


def loops(tokens: Sequence[int], stop: str) -> bool:
    """Whether a text was ended by its limit while it repeated itself.

    Its last ``n`` tokens, for some ``n`` of at least ``SHORTEST``, stand there ``TIMES`` times in a row. A shorter
    cycle is found as a multiple of itself.
    """
    if stop != "length":
        return False
    longest = len(tokens) // TIMES
    return any(list(tokens[-TIMES * n : -n]) == list(tokens[-(TIMES - 1) * n :]) for n in range(SHORTEST, longest + 1))


def plans_by_ranking(
    bench: Workbench, rankings: Sequence[str], budgets: Sequence[int], tokens: int
) -> dict[tuple[str, int], Plan]:
    """Plans that skip as many sub-layers in every stage, by ranking and budget; without those a ranking does not know.

    Raises:
        LiteStageError: a ranking that is not known or knows none of the budgets, or one that the model does not have.
    """
    some(("uniform", "cosine", FIDELITY), rankings=rankings)
    sublayer_budgets(bench, budgets)
    at_least(1, tokens=tokens)
    plans: dict[tuple[str, int], Plan] = {}
    for ranking in rankings:
        if ranking == FIDELITY:
            orders = orders_on(bench, own_texts(bench), tokens, max(budgets))
            plans |= {(ranking, budget): skipping(orders, dict.fromkeys(orders, budget)) for budget in budgets}
            continue
        for budget in budgets:
            try:
                plans[ranking, budget] = bench.plan(f"{ranking}:{budget}")
            except NotThisBudget as error:
                unknown = str(error)
        if not any(of == ranking for of, _ in plans):
            raise LiteStageError(f"rankings has {ranking!r}, which knows none of the budgets: {unknown}")
    return plans


def _plans(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["ranking"], row["budget"]) for row in rows))


def _most(rows: Sequence[Row]) -> str:
    """How much loops at full depth, and by ranking and stage at the budget at which most does."""
    stages, by_loops, parts = distinct(rows, "stage"), itemgetter("looping"), []
    for ranking in distinct(rows, "ranking"):
        worst = {stage: max(where(rows, ranking=ranking, stage=stage), key=by_loops) for stage in stages}
        if not any(map(by_loops, worst.values())):
            highest = max((row["looping_ci95"][1] for row in worst.values()), default=0.0)
            said = f"none, in no stage ({INTERVAL} up to {highest:.1%})"
        else:
            said = ", ".join(
                f"{stage} {percent_of(row, 'looping')}"
                + (f" at {row['budget']} skipped" if row["budget"] and row["looping"] else "")
                for stage, row in worst.items()
            )
        parts.append(f"at full depth {said}" if ranking == FULL else f"by {ranking} at most {said}")
    return f"Texts that end in a loop: {'; '.join(parts)}."


def _where_accuracy_stays(rows: Sequence[Row]) -> str:
    """Whether texts loop under plans that do not measurably lose accuracy."""
    skipping = [row for row in rows if row["ranking"] != FULL]
    kept = [row for row in skipping if row["accuracy_drop_ci95"][0] <= 0]
    plans, lost = len(_plans(kept)), len(_plans(skipping)) - len(_plans(kept))
    if not kept:
        return "Every plan measurably loses accuracy, so that none shows loops where accuracy stays."
    looping = [row for row in kept if row["looping"] > 0]
    head = f"{plans} plans do not measurably lose accuracy, {lost} do; "
    if not looping:
        return f"{head}none of the former has a text that loops: here loops come with lost answers, not before them."
    worst = max(looping, key=itemgetter("looping"))
    return (
        f"{head}of the former {len(_plans(looping))} write some texts that loop, most by {worst['ranking']} at "
        f"{worst['budget']} skipped in {worst['stage']}, {percent_of(worst, 'looping')}, where accuracy "
        f"drops by {drop_of(worst)}."
    )
