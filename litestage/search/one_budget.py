"""One budget for all stages: what a method that knows no stages can be given. The fastest within the bound is taken.

So every baseline is compared at its own best budget, chosen on the same calibration questions and by the same rule as
the searched plan.
"""

from __future__ import annotations

from dataclasses import replace

from litestage.progress import Advance
from litestage.search.candidate import SearchResult
from litestage.search.choice import choose
from litestage.search.ladders import Ladders
from litestage.search.problem import SearchProblem
from litestage.search.race import ASKED
from litestage.search.strategy import Strategy


def one_budget_search(problem: SearchProblem, advance: Advance = lambda plans: None) -> SearchResult:
    """Races the same rung of every stage's ladder, for all rungs."""
    full, rule = problem.full(), problem.exit
    candidates, faster, passed = [], [], []
    for rung in _rungs(problem):
        candidate, within = problem.race(dict.fromkeys(problem.nothing, rung), rule)
        drop = f"{problem.what_it_loses(candidate)}, {candidate.questions} questions tried"
        verdict = candidate.verdict or f"{'within the bound' if within else 'dropped'}: {drop}"
        candidate = replace(candidate, verdict=verdict)
        candidates.append(candidate)
        if candidate.latency_s < full.latency_s:
            faster.append(candidate)
            passed += [candidate] if within else []
        advance(1)
    return choose(problem, "one_budget", candidates, faster, passed, full)


def _rungs(problem: SearchProblem) -> range:
    """The rungs that every stage's ladder has; full depth is one of them only where its exit rule is tried."""
    return range(0 if problem.exit_alone_counts else 1, min(map(len, problem.ladders.values())))


STRATEGY = Strategy(
    ranking="fidelity",
    ladders=lambda calibrated: Ladders(calibrated.shared_ladders()),
    search=one_budget_search,
    plans=lambda problem: len(_rungs(problem)),
    passes=lambda stages, budgets: 1 + ASKED * budgets,
)
