"""The paper's search (LiteStage, arXiv 2510.14211, overview figure): stage by stage, the slowest stage first.

For each stage in turn every budget from 0 up is tried, with the stages already done at their chosen budgets and the
others at full depth; the budget of lowest latency among those that keep the accuracy target is frozen. The target is
set once, from full depth. All budgets are tried because neither accuracy nor latency is monotone in them.

What is chosen in the end is the fastest of these that is certified (:mod:`litestage.search.certify`); without a
certificate, the last one frozen.
"""

from __future__ import annotations

from dataclasses import replace

from litestage.progress import Advance
from litestage.search.candidate import Candidate, SearchResult
from litestage.search.choice import choose
from litestage.search.ladders import Ladders
from litestage.search.problem import SearchProblem
from litestage.search.strategy import Strategy


def greedy_search(problem: SearchProblem, advance: Advance = lambda plans: None) -> SearchResult:
    """Runs the search."""
    rungs, rule = problem.nothing, problem.exit
    full = problem.full()
    order = sorted(rungs, key=lambda stage: -full.stage_latency_s[stage])
    seen: dict[tuple[object, ...], Candidate] = {}
    for stage in order:
        tried = []
        for rung in range(len(problem.ladders[stage])):
            tried.append(problem.evaluate({**rungs, stage: rung}, rule))
            advance(1)
        allowed = [candidate for candidate in tried if problem.kept_by(candidate)] or [full]
        best = min(allowed, key=lambda candidate: candidate.latency_s)
        rungs = dict(best.rungs)
        for candidate in tried:
            verdict = f"frozen for {stage}" if candidate is best else _reason(candidate, best, problem)
            seen[candidate.key] = replace(candidate, verdict=verdict)
    faster = [candidate for candidate in seen.values() if candidate.latency_s < full.latency_s]
    last = problem.evaluate(rungs, rule)
    within = [last] if problem.kept_by(last) and last.latency_s < full.latency_s else []
    return choose(problem, "greedy", list(seen.values()), faster, within, full)


def _reason(candidate: Candidate, best: Candidate, problem: SearchProblem) -> str:
    if not problem.kept_by(candidate):
        return f"dropped: {problem.what_it_loses(candidate)}, more than {problem.bound.most * 100:g}"
    return f"dropped: {candidate.latency_s * 1000:.2f} ms is slower than {best.latency_s * 1000:.2f} ms"


STRATEGY = Strategy(
    ranking="global",
    ladders=lambda calibrated: Ladders(calibrated.ladders(calibrated.ranking)),
    search=greedy_search,
    plans=lambda problem: sum(map(len, problem.ladders.values())),
    passes=lambda stages, budgets: 1 + stages * (budgets + 1),
    margin=False,
)
