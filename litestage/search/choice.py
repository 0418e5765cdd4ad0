"""How every strategy ends: of what it tried, what may be chosen, and which of that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from litestage.plan import Plan
from litestage.plan.certificate import counted
from litestage.search.candidate import Candidate, SearchResult, frontier
from litestage.search.certify import Walk, walk
from litestage.search.finalists import by_the_clock
from litestage.search.problem import SearchProblem


def choose(
    problem: SearchProblem,
    strategy: str,
    tried: Sequence[Candidate],
    faster: Sequence[Candidate],
    within: Sequence[Candidate],
    full: Candidate,
    clock: bool = False,
    keep: bool = False,
) -> SearchResult:
    """The fastest plan that was certified; without confirming questions, the fastest within the bound on the search's.

    Args:
        tried: all candidates.
        faster: those that are faster than full depth.
        within: those of these that may be chosen by the strategy's own rule.
        clock: whether the first few are timed.
        keep: whether the frontier's plans are kept.
    """
    walked = walk(problem, faster, full) if problem.confirm else None
    allowed = list(within) if walked is None else [c for c in faster if c.plan in walked.certificates]
    allowed.sort(key=lambda candidate: candidate.latency_s)
    if clock:
        allowed = by_the_clock(problem, allowed, full)
    chosen = replace(allowed[0] if allowed else full, verdict="chosen")
    certificates = walked.certificates if walked else {}
    timed = {candidate.key: candidate for candidate in [*allowed, chosen]}
    judged = [_judged(timed.get(candidate.key, candidate), walked, problem.bound.on) for candidate in tried]

    def plan(candidate: Candidate) -> Plan:
        made = problem.session.signed(problem.plan(candidate.rungs, candidate.exit_rule), problem.pipeline)
        return replace(made, certificate=certificates.get(candidate.plan))

    return SearchResult(
        plan=replace(plan(chosen), provenance=problem.provenance(strategy, chosen, full)),
        chosen=chosen,
        full=full,
        candidates=judged,
        met=bool(allowed),
        plans={candidate.plan: plan(candidate) for candidate in frontier(judged)} if keep else {},
        walk=walked,
        on=problem.bound.on,
    )


def _judged(candidate: Candidate, walked: Walk | None, on: str) -> Candidate:
    """With what the walk said of it, but for the chosen one."""
    step = next((step for step in walked.steps if step.plan == candidate.plan), None) if walked else None
    if step is None or candidate.verdict == "chosen":
        return candidate
    shown = f"{counted(on, step.lost, step.gained)} of {step.asked} confirming questions, p = {step.p:.3g}"
    return replace(candidate, verdict=f"{'certified' if step.passed else 'not certified'}: {shown}")
