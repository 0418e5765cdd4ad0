"""Finalists are timed by the clock: predicted latencies order plans, and near the end they are close together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from litestage.search.candidate import Candidate
from litestage.search.problem import SearchProblem
from litestage.stats.bootstrap import resampled_sums

_RESAMPLES = 2000
_SURE = 0.99


def by_the_clock(problem: SearchProblem, passed: Sequence[Candidate], full: Candidate) -> list[Candidate]:
    """The candidates that may be chosen, best first, the first few with their measured seconds.

    The order of prediction stands unless a finalist is faster than the first beyond doubt (paired bootstrap over
    questions, 99 %), so that another run on the same machine ends with the same plan.

    Args:
        passed: candidates within the bound, by predicted latency.
    """
    finalists = list(passed[: problem.finalists])
    questions = problem.questions[: problem.timed_questions]
    if not finalists or not questions:
        return list(passed)
    plans = {candidate.plan: problem.plan(candidate.rungs, candidate.exit_rule) for candidate in finalists}
    plans[full.plan] = problem.plan(full.rungs, full.exit_rule)
    traces = problem.session.run(
        *(questions, plans, problem.pipeline),
        timed=True,
        journal=problem.journal,
        progress="finalists, one question at a time",
    )
    seconds = {plan: [trace.latency_s or 0.0 for trace in rows] for plan, rows in traces.items()}
    timed = [
        replace(c, measured_s=fmean(seconds[c.plan]), measured_full_s=fmean(seconds[full.plan])) for c in finalists
    ]
    best = 0
    for index in range(1, len(timed)):
        if surely_faster(seconds[timed[index].plan], seconds[timed[best].plan]):
            best = index
    return [timed[best], *timed[:best], *timed[best + 1 :], *passed[problem.finalists :]]


def surely_faster(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a``'s total is below ``b``'s in 99 % of resamples of the questions both were timed on."""
    differences = resampled_sums(np.array([a]) - np.array([b]), _RESAMPLES, seed=0)
    return bool((differences < 0).mean() >= _SURE)
