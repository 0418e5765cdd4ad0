"""Which exit rule cuts most at equal risk: each at the fastest of its own parameters that is certified, beside the
paper's fixed threshold of 0.5.

Every rule is held against the same plan uncut. Its parameters are tried on the search's calibration questions, walked
from safe to fast on the others, and what is chosen is tried on the test split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from litestage.config import RunConfig
from litestage.experiment.findings import Findings, Row
from litestage.experiment.options import some, without_exit
from litestage.experiment.panels import PALETTE, name_axes, panels, with_intervals
from litestage.experiment.trials import Trials
from litestage.experiment.wording import COLUMNS, drop_of, speedup_of, where
from litestage.plan import ExitRule, Plan
from litestage.plan.exit import SIMPLE_RULES
from litestage.progress import bar
from litestage.report.wording import signed_points
from litestage.search.candidate import SearchResult
from litestage.search.choice import choose
from litestage.search.pareto import WORTHWHILE
from litestage.search.problem import SearchProblem
from litestage.session.workbench import Workbench
from litestage.stats import Bound

FIXED = "fixed 0.5"
PROMISES = {None: "", True: "yes", False: "no"}


@dataclass
class Options(RunConfig):
    """Options of ``experiment adaptive-exit``.

    Attributes:
        plans: what is cut: shorthands or plan files.
        rules: names of exit rules.
    """

    plans: list[str] = field(default_factory=lambda: ["full", "cosine:4"])
    rules: list[str] = field(default_factory=lambda: list(SIMPLE_RULES))


def run(bench: Workbench, config: Options) -> Findings:
    """Chooses and certifies every rule's parameters on every plan, and tries them on the test split."""
    some(plans=config.plans)
    some(SIMPLE_RULES, rules=config.rules)
    without_exit(config.plans)
    plans = {spec: bench.plan(spec).with_exit(None) for spec in config.plans}
    trials, rows = Trials.on_test(bench), []
    with bar("plans and exit rules", len(plans) * (len(config.rules) + 1)) as advance:
        for spec, plan in plans.items():
            problem = bench.exit_problem(plan)
            rows.append({"of": spec, "rule": "uncut", "setting": "", "certified": None, **trials.row(plan)})
            tried = {FIXED: [ExitRule()], **{name: SIMPLE_RULES[name].grid() for name in config.rules}}
            for name, rules in tried.items():
                rows.append(_row(problem, trials, plan, spec, name, rules))
                advance(1)
    bound = Bound(config.search.max_accuracy_drop, config.search.confidence, config.search.bound)
    sentences = [_sentence(rows, spec, bound) for spec in plans]
    return Findings(
        questions=len(trials.questions),
        rows=rows,
        columns={
            **{"plan": "of", "rule": "rule", "parameters": "setting"},
            "certified": lambda row: PROMISES[row["certified"]],
            **COLUMNS,
            "against the\nplan uncut": _against,
        },
        shows=(sentences[0], " ".join(sentences[1:]) or "Other plans were not asked for."),
        figure=_figure(rows, list(plans)),
        more={"bound": bound.most, "bounded": bound.on, "confidence": bound.confidence},
    )


def _row(
    problem: SearchProblem, trials: Trials, plan: Plan, spec: str, name: str, rules: Sequence[ExitRule]
) -> dict[str, Any]:
    found = certified_exit(problem, rules)
    setting = found.chosen.exit_rule
    if name == FIXED:
        setting = rules[0]  # tried on the test split, certified or not
    cut = plan if setting is None else plan.with_exit(setting, problem.pipeline.stage_names)
    steps = found.walk.steps if found.walk else ()
    step = next((step for step in steps if step.plan == cut.hash), None)
    return {
        "of": spec,
        "rule": name,
        "setting": "nothing" if setting is None else str(setting),
        "exit": setting.to_dict() if setting else None,
        "certified": step is not None and step.passed,
        "confirming": {"asked": step.asked, "lost": step.lost, "gained": step.gained, "p": step.p} if step else None,
        **trials.row(cut),
        "against_uncut": trials.against(cut, plan),
    }


def certified_exit(problem: SearchProblem, rules: Sequence[ExitRule]) -> SearchResult:
    """The rule, calibrated where it takes that, of the fastest certified plan of the problem's first rungs; or none."""
    nothing = problem.nothing
    full, candidates = problem.full(), []
    for rule in dict.fromkeys(problem.calibrated(nothing, rule) for rule in rules):
        if problem.cut_share(nothing, rule) > WORTHWHILE:
            candidate, passed = problem.race(nothing, rule)
            candidates.append(replace(candidate, verdict="within the bound" if passed else "dropped"))
    faster = [candidate for candidate in candidates if candidate.latency_s < full.latency_s]
    within = [candidate for candidate in faster if candidate.verdict == "within the bound"]
    return choose(problem, "exit", candidates, faster, within, full)


def _against(row: Row) -> str:
    against = row.get("against_uncut")
    return "" if against is None else f"{signed_points(against)}, {against['predicted_speedup']:.2f}x"


def _sentence(rows: Sequence[Row], spec: str, bound: Bound) -> str:
    mine = [row for row in where(rows, of=spec) if row["rule"] != "uncut"]
    fixed = next(row for row in mine if row["rule"] == FIXED)
    faster = [row for row in mine if row["certified"] and row["against_uncut"]["predicted_speedup_ci95"][0] > 1]
    said = (
        f"On {spec} the fixed 0.5 is {'certified' if fixed['certified'] else 'not certified'} to "
        f"{bound.in_words('lose', 'change')} against the plan uncut, loses {drop_of(fixed['against_uncut'])} and is "
        f"predicted {speedup_of(fixed['against_uncut'])}"
    )
    if not faster:
        return f"{said}; no rule of {len(mine)} is certified and measurably faster."
    best = max(faster, key=lambda row: float(row["against_uncut"]["predicted_speedup"]))
    return (
        f"{said}; of {len(mine)} rules {len(faster)} are certified and measurably faster than uncut, the fastest "
        f"{best['rule']} ({best['setting']}), predicted {speedup_of(best['against_uncut'])}."
    )


def _figure(rows: Sequence[Row], plans: Sequence[str]) -> Any:
    figure, axes = panels(len(plans), width=4.6)
    for one, spec in zip(axes, plans, strict=True):
        for row in where(rows, of=spec):
            if "against_uncut" not in row:
                continue
            against, colour = row["against_uncut"], PALETTE[1] if row["certified"] else PALETTE[0]
            x = against["predicted_speedup"]
            with_intervals(one, [x], [against], "accuracy_drop", scale=100, fmt="o", color=colour)
            one.annotate(
                row["rule"], (x, against["accuracy_drop"] * 100), fontsize=7, xytext=(4, 3), textcoords="offset points"
            )
        name_axes(one, title=f"{spec}; red: not certified", x="predicted speed-up against uncut", y="points lost")
    return figure
