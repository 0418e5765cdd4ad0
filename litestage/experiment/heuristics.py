"""The searched plan against static policies that look at nothing or little: every 4th layer, even distances, random
sub-layers, a ranking with one budget for all. First at the searched plan's own number of sub-layers in each stage, then
at its predicted latency.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from litestage.config import RunConfig
from litestage.errors import LiteStageError, at_least
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some
from litestage.experiment.panels import PALETTE, coloured, legend, name_axes, panels
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, drop_of, either_way, skipped, speedup_of
from litestage.methods import METHODS
from litestage.plan import Plan, SkipSet, StagePlan
from litestage.progress import each
from litestage.session.workbench import Workbench

EVERY_FOURTH = "every-4th"
SEARCHED = "litestage"


@dataclass
class Options(RunConfig):
    """Options of ``experiment heuristics``.

    Attributes:
        policies: ``every-4th``, which has no budget, and any method that ``litestage compare`` knows.
        seeds: how many draws stand for ``random``.
        step: every how many budgets a policy is tried where its latency is matched, up to half of the sub-layers.
    """

    policies: list[str] = field(default_factory=lambda: [EVERY_FOURTH, "uniform", "early-exit", "random", "cosine"])
    seeds: int = 2
    step: int = 4


def run(bench: Workbench, config: Options) -> Findings:
    """Searches on the calibration split, then tries the plan and every policy on the test split."""
    at_least(1, seeds=config.seeds, step=config.step)
    some((EVERY_FOURTH, *(method for method in METHODS if method != "full")), policies=config.policies)
    trials = Trials.on_test(bench)
    found = bench.search().plan
    plans: list[tuple[str, str, int | None, Plan]] = [(SEARCHED, "", None, found)]
    budgets = {name: len(stage.skip) for name, stage in found.stages.items()}
    most = bench.session.engine.decoder.layers
    for policy in config.policies:
        if policy == EVERY_FOURTH:
            plans.append((policy, "fixed", None, _every_fourth(bench)))
            continue
        for seed in map(str, range(config.seeds)) if policy == "random" else [""]:
            name = f"{policy} {seed}".strip()
            plans.append((name, "sub-layers", None, _at(bench, policy, seed, budgets)))
            for rung in range(config.step, most + 1, config.step):
                plans.append((name, "curve", rung, _at(bench, policy, seed, dict.fromkeys(budgets, rung))))
    rows = []
    for name, match, budget, plan in each("policies on the test split", plans):
        compared = trials.behind(plan, found, "behind_searched")
        rows.append({"policy": name, "match": match, "budget": budget, **trials.row(plan), **compared})
    searched, *others = rows
    matched = at_its_latency(searched, others)
    same = [row for row in others if row["match"] in ("sub-layers", "fixed")]
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={"policy": "policy", "compared at": "at", "skipped": skipped, **COLUMNS},
        shown=[
            {**searched, "at": ""},
            *({**row, "at": "its own sub-layers" if row["match"] == "fixed" else "same sub-layers"} for row in same),
            *({**row, "at": "same latency"} for row in matched),
        ],
        shows=(_same_sentence(searched, same, budgets), _matched_sentence(searched, matched, others)),
        figure=_figure(searched, others),
        more={"searched_budgets": budgets, "at_the_searched_latency": [row["plan"] for row in matched]},
    )


def at_its_latency(searched: Row, others: Sequence[Row]) -> list[Row]:
    """Of each policy the most accurate plan predicted to be at least as fast as the searched one, if there is one."""
    best: dict[str, Row] = {}
    for row in others:
        as_fast = row["predicted_latency_s"] <= searched["predicted_latency_s"]
        if as_fast and (row["policy"] not in best or row["accuracy"] > best[row["policy"]]["accuracy"]):
            best[row["policy"]] = row
    return list(best.values())


def _every_fourth(bench: Workbench) -> Plan:
    layers = tuple(range(3, bench.session.engine.decoder.layers, 4))
    return Plan(dict.fromkeys(bench.pipeline.stage_names, StagePlan(skip=SkipSet(layers, layers))))


def _at(bench: Workbench, policy: str, seed: str, budgets: Mapping[str, int]) -> Plan:
    """The policy's plan with each stage's own budget; one less where it skips whole layers only."""
    stages, suffix = {}, f":{seed}" if seed else ""
    for stage, budget in budgets.items():
        try:
            plan = bench.session.plan(f"{policy}:{budget}{suffix}", bench.task, bench.pipeline)
        except LiteStageError:
            if budget % 2 == 0:
                raise
            plan = bench.session.plan(f"{policy}:{budget - 1}{suffix}", bench.task, bench.pipeline)
        stages[stage] = plan[stage]
    return Plan(stages)


def _same_sentence(searched: Row, same: Sequence[Row], budgets: Mapping[str, int]) -> str:
    best = max(same, key=lambda row: row["accuracy"])
    return (
        f"Skipping {skipped(searched)} sub-layers ({' / '.join(budgets)}), the searched plan loses "
        f"{drop_of(searched)} and is predicted {speedup_of(searched)}; the most accurate of {len(same)} policies, "
        f"{best['policy']} ({skipped(best)}), answers {best['accuracy']:.1%} right, {_behind(best)}."
    )


def _matched_sentence(searched: Row, matched: Sequence[Row], others: Sequence[Row]) -> str:
    latency = f"{searched['predicted_latency_s'] * 1000:.1f} ms"
    policies = len({row["policy"] for row in others})
    if not matched:
        return f"None of the {policies} policies is predicted to be as fast as its {latency} at any budget tried."
    best = max(matched, key=lambda row: row["accuracy"])
    return (
        f"{len(matched)} of {policies} policies are predicted to be as fast as its {latency} at some budget; the most "
        f"accurate of those plans, {best['policy']} ({skipped(best)}), answers {best['accuracy']:.1%} right, "
        f"{_behind(best)}."
    )


def _behind(row: Row) -> str:
    return f"{either_way(row, 'behind_searched')} {'more' if row['behind_searched'] < 0 else 'fewer'} than it"


def _figure(searched: Row, others: Sequence[Row]) -> Any:
    figure, (axis,) = panels(1, width=7.2, height=4.2)
    policies = dict.fromkeys(row["policy"].split()[0] for row in others)
    for policy, colour in coloured(policies, PALETTE[1:]):
        lines = dict.fromkeys(row["policy"] for row in others if row["policy"].split()[0] == policy)
        for index, line in enumerate(lines):
            rows = [row for row in others if row["policy"] == line and row["match"] in ("curve", "fixed")]
            x, y = [row["predicted_latency_s"] * 1000 for row in rows], [row["accuracy"] * 100 for row in rows]
            label = policy if not index else None
            style = "D" if len(rows) == 1 else "o-"
            axis.plot(x, y, style, color=colour, markersize=4, linewidth=1, alpha=0.8, label=label)
            for row in rows:
                if row["budget"] and not index and row["budget"] % 4 == 0:
                    place = (row["predicted_latency_s"] * 1000, row["accuracy"] * 100)
                    axis.annotate(str(row["budget"]), place, textcoords="offset points", xytext=(3, 4), fontsize=7)
    at = (searched["predicted_latency_s"] * 1000, searched["accuracy"] * 100)
    axis.plot(*at, "*", color=PALETTE[0], markersize=14, label=f"searched ({skipped(searched)})")
    axis.axvline(at[0], color=PALETTE[0], linewidth=0.8, linestyle=":")
    name_axes(
        axis, x="predicted milliseconds per question; numbers: sub-layers skipped in every stage", y="accuracy, %"
    )
    legend(axis, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
