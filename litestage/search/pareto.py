"""The pareto search (beyond the paper): all stages together, hopeless plans dropped early, neighbours verified.

1. *Path.* From the fidelity ranking each rung of a stage's ladder has an estimated harm (nats per question) and a
   saving (predicted seconds). Rungs are climbed in the order of harm over saving, over all stages at once: a path of
   nested plans from full depth to the largest budgets, made without generating anything.
2. *Bisection.* The fastest plan on the path that stays within the bound is looked for by bisection; each plan tried
   races on growing parts of the calibration questions (:mod:`litestage.search.race`).
3. *Refinement.* From there, one stage up, or one up and another down, as long as a neighbour that is predicted to be
   faster stays within the bound.

Every plan tried on all questions stands on the frontier or is dominated; both are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from litestage.search.problem import Budgets, Candidate, SearchProblem, SearchResult

Harms = Mapping[str, Sequence[float]]
"""By stage, the estimated harm at each budget: nats per question that the stage's full-depth outputs lose."""


def pareto_search(
    problem: SearchProblem, harms: Harms, advance: Callable[[str], None] = lambda message: None
) -> SearchResult:
    """Runs the search. ``advance`` is told of every plan raced, with a line that says what became of it."""
    raced: dict[tuple[int, ...], tuple[Candidate, bool]] = {}
    full = problem.evaluate(problem.nothing)

    def within(budgets: Budgets) -> bool:
        key = tuple(budgets.values())
        if key not in raced:
            candidate, passed = problem.race(budgets)
            reason = _reason(candidate, passed, problem)
            raced[key] = replace(candidate, verdict=reason), passed
            advance(f"{' / '.join(map(str, key))}: {reason}")
        return raced[key][1]

    path = _path(problem, harms, full)
    low, high = 0, len(path) - 1  # path[low] is within the bound: full depth is
    while low < high:
        middle = (low + high + 1) // 2
        if within(path[middle]):
            low = middle
        else:
            high = middle - 1
    best = path[low]
    improved = True
    while improved:
        improved = False
        for neighbour in _faster_neighbours(problem, best, full):
            if within(neighbour):
                best, improved = neighbour, True
                break
    passed = [candidate for candidate, ok in raced.values() if ok and candidate.latency_s < full.latency_s]
    chosen = min(passed, key=lambda candidate: candidate.latency_s, default=full)
    candidates = [replace(c, verdict="chosen") if c.budgets == chosen.budgets else c for c, _ in raced.values()]
    plan = replace(
        problem.session.signed(problem.plan(chosen.budgets), problem.pipeline),
        provenance=problem.provenance("pareto", chosen, full),
    )
    return SearchResult(plan, chosen, full, candidates, met=any(chosen.budgets.values()))


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates tried on all questions that no other beats in both accuracy and predicted latency, fastest first."""
    most = max(candidate.questions for candidate in candidates)
    complete = sorted(
        (c for c in candidates if c.questions == most), key=lambda candidate: (candidate.latency_s, -candidate.accuracy)
    )
    kept: list[Candidate] = []
    for candidate in complete:
        if not kept or candidate.accuracy > kept[-1].accuracy:
            kept.append(candidate)
    return kept


def _path(problem: SearchProblem, harms: Harms, full: Candidate) -> list[dict[str, int]]:
    """Budgets along the path, full depth first; each next rung is the one of least harm for the time it saves."""
    budgets = problem.nothing
    path = [dict(budgets)]
    saving = {stage: _rung_seconds(problem, stage, full) for stage in budgets}
    while True:
        open_stages = [stage for stage in budgets if budgets[stage] < problem.max_budget(stage)]
        if not open_stages:
            return path

        def price(stage: str) -> float:
            at = budgets[stage]
            return max(harms[stage][at + 1] - harms[stage][at], 0.0) / saving[stage]

        budgets[min(open_stages, key=price)] += 1
        path.append(dict(budgets))


def _rung_seconds(problem: SearchProblem, stage: str, full: Candidate) -> float:
    """Seconds per question that one sub-layer of the stage costs at full depth, roughly."""
    sublayers = len(problem.session.engine.decoder.sublayers)
    return full.stage_latency_s[stage] / sublayers


def _faster_neighbours(problem: SearchProblem, best: Budgets, full: Candidate) -> Iterator[dict[str, int]]:
    """One stage up; or one stage up and another down where that saves time; the largest saving first."""
    seconds = {stage: _rung_seconds(problem, stage, full) for stage in best}
    moves: list[tuple[float, dict[str, int]]] = []
    for up in best:
        for step in (2, 1):
            if best[up] + step > problem.max_budget(up):
                continue
            moves.append((step * seconds[up], {**best, up: best[up] + step}))
            for down in best:
                gain = step * seconds[up] - seconds[down]
                if down != up and best[down] > 0 and gain > 0:
                    moves.append((gain, {**best, up: best[up] + step, down: best[down] - 1}))
    for _, budgets in sorted(moves, key=lambda move: -move[0]):
        yield budgets


def _reason(candidate: Candidate, passed: bool, problem: SearchProblem) -> str:
    drop = f"{candidate.accuracy_drop * 100:+.1f} points on {candidate.questions} questions"
    if passed:
        return f"within the bound: {drop}, {candidate.latency_s * 1000:.2f} ms"
    if candidate.questions < len(problem.questions):
        return f"dropped early: {drop}"
    return f"dropped: {drop}, its 90 % upper limit is above {problem.max_accuracy_drop * 100:.1f}"
