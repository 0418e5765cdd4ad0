"""The pareto search (beyond the paper): all stages together, hopeless plans dropped early, neighbours verified.

1. *Path.* Each rung of a stage's ladder has an estimated harm and predicted seconds. Rungs are climbed in the order of
   harm over saving, over all stages at once: a path of plans from full depth to the fastest, made without generating
   anything.
2. *Bisection.* The fastest plan on the path that stays within the bound is looked for by bisection; each plan tried
   races on growing parts of the calibration questions (:mod:`litestage.search.race`).
3. *Refinement.* From there, one stage up, or one up and another down, as long as a neighbour that is predicted to be
   faster stays within the bound.
4. *Exit.* Exit rules that would cut enough are tried on the best plan, and on full depth, where they may be all that
   is safe; what both write is known, uncut.
5. *Certificate.* Plans, among them some of the path that are safer than the best, are walked from safe to fast on
   questions kept for that (:mod:`litestage.search.certify`).
6. *Finalists.* The fastest plans are timed by the clock (:mod:`litestage.search.finalists`).

Every plan tried on all questions stands on the frontier or is dominated; both are reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from litestage.plan import ExitRule
from litestage.plan.exit import SIMPLE_RULES
from litestage.progress import Advance
from litestage.search.candidate import Candidate, Rungs, SearchResult
from litestage.search.choice import choose
from litestage.search.ladders import Estimate
from litestage.search.problem import SearchProblem
from litestage.search.race import ASKED
from litestage.search.strategy import Strategy

Estimates = Mapping[str, Sequence[Estimate]]
"""By stage, what each rung of its ladder is expected to do."""

STEPS = (0.9, 0.8, 0.7, 0.6, 0.5)
"""Of the time that the best plan saves, what plans for the walk save."""
TRIED = 14
"""How many plans it tries, about, before there are ladders to count by."""
RANKING = 0.5
"""What ranking sub-layers by fidelity takes, about, of the time in which full depth answers the same questions."""
WORTHWHILE = 0.01
"""A neighbour or an exit rule must be predicted to save this share of the time: step costs are not more exact, and an
exit rule costs the confidence of every step."""


def pareto_search(problem: SearchProblem, advance: Advance = lambda plans: None) -> SearchResult:
    """Runs the search over the problem's ladders, whose rungs have estimates."""
    raced: dict[tuple[object, ...], tuple[Candidate, bool]] = {}
    full, estimates = problem.full(), problem.estimates

    def within(rungs: Rungs, rule: ExitRule | None = problem.exit) -> bool:
        key = (*rungs.values(), rule)
        if key not in raced:
            candidate, passed = problem.race(rungs, rule)
            raced[key] = replace(candidate, verdict=_reason(candidate, passed, problem)), passed
            advance(1)
        return raced[key][1]

    path = _path(problem.nothing, estimates)
    low, high = 0, len(path) - 1  # path[low] is taken to be within the bound: full depth is
    if problem.exit_alone_counts:
        within(path[0])
    while low < high:
        middle = (low + high + 1) // 2
        if within(path[middle]):
            low = middle
        else:
            high = middle - 1
    best = path[low]
    while (neighbour := next(filter(within, _faster_neighbours(best, estimates)), None)) is not None:
        best = neighbour
    for rungs in _safer(path, best, estimates) if problem.confirm else ():
        within(rungs)
    for rungs in (best, path[0]) if problem.try_exits else ():
        for rule in _cutting(problem, rungs):
            within(rungs, rule)
    tried = [candidate for candidate, _ in raced.values()]
    faster = [candidate for candidate in tried if _pays(candidate, raced, full)]
    passed = [candidate for candidate in faster if raced[candidate.key][1]]
    return choose(problem, "pareto", tried, faster, passed, full, clock=True, keep=True)


def _expected_races(problem: SearchProblem) -> int:
    """About how many plans a search will try: to tell the time left by."""
    rungs = sum(len(ladder) - 1 for ladder in problem.ladders.values())
    return rungs.bit_length() + 3 * len(problem.ladders) + (2 if problem.try_exits else 0)


def _path(nothing: Rungs, estimates: Estimates) -> list[dict[str, int]]:
    """Rungs along the path, full depth first: each next step is the one of least harm for the time it saves.

    A step may pass over rungs of its ladder that cost more harm for their time than a later one.
    """
    rungs = dict(nothing)
    path = [dict(rungs)]
    while True:
        steps = [
            ((to.harm - at.harm) / (at.seconds - to.seconds), stage, index)
            for stage, ladder in estimates.items()
            for at in (ladder[rungs[stage]],)
            for index, to in enumerate(ladder)
            if index > rungs[stage]
        ]
        if not steps:
            return path
        _, stage, index = min(steps)
        rungs[stage] = index
        path.append(dict(rungs))


def _faster_neighbours(best: Rungs, estimates: Estimates) -> Iterator[dict[str, int]]:
    """One stage up; or one stage up and another down where that saves time; the largest saving first.

    What saves less than step costs can tell is left out.
    """
    moves: list[tuple[float, dict[str, int]]] = []
    for up, ladder in estimates.items():
        for step in (2, 1):
            if best[up] + step >= len(ladder):
                continue
            saved = ladder[best[up]].seconds - ladder[best[up] + step].seconds
            moves.append((saved, {**best, up: best[up] + step}))
            for down, other in estimates.items():
                if down != up and best[down] > 0:
                    net = saved - (other[best[down] - 1].seconds - other[best[down]].seconds)
                    moves.append((net, {**best, up: best[up] + step, down: best[down] - 1}))
    whole = sum(ladder[best[stage]].seconds for stage, ladder in estimates.items())
    for net, rungs in sorted(moves, key=lambda move: -move[0]):
        if net > WORTHWHILE * whole:
            yield rungs


def _safer(path: Sequence[Rungs], best: Rungs, estimates: Estimates) -> list[Rungs]:
    """Plans of the path that save some of what the best one does, for the walk that certifies."""

    def seconds(rungs: Rungs) -> float:
        return sum(ladder[rungs[stage]].seconds for stage, ladder in estimates.items())

    full, fastest = seconds(path[0]), seconds(best)
    wanted = [full - share * (full - fastest) for share in STEPS]
    found = [min(path, key=lambda rungs: abs(seconds(rungs) - target)) for target in wanted]
    return [rungs for rungs in found if fastest < seconds(rungs) < full]


def _cutting(problem: SearchProblem, rungs: Rungs) -> list[ExitRule]:
    """Exit rules that would cut enough of the plan's tokens to be worth their own cost, the most cautious first."""
    rules = [problem.calibrated(rungs, rule) for name in problem.exit_rules for rule in SIMPLE_RULES[name].grid()]
    shares = {rule: problem.cut_share(rungs, rule) for rule in rules}
    return sorted((rule for rule in rules if shares[rule] > WORTHWHILE), key=lambda rule: shares[rule])


def _pays(candidate: Candidate, raced: Mapping[tuple[object, ...], tuple[Candidate, bool]], full: Candidate) -> bool:
    """Whether it is faster than full depth and, with an exit rule, clearly faster than without."""
    limit = full.latency_s
    without = (*candidate.rungs.values(), None)
    if candidate.exit is not None and without in raced:
        limit = min(limit, (1 - WORTHWHILE) * raced[without][0].latency_s)
    elif candidate.exit is not None and not any(candidate.rungs.values()):
        limit *= 1 - WORTHWHILE
    return candidate.latency_s < limit


def _reason(candidate: Candidate, passed: bool, problem: SearchProblem) -> str:
    if candidate.verdict:
        return candidate.verdict
    drop = problem.what_it_loses(candidate)
    if passed:
        return f"within the bound: {drop}, {candidate.latency_s * 1000:.2f} ms"
    if candidate.questions < len(problem.questions):
        return f"dropped early: {drop} or worse after {candidate.questions} questions"
    return f"dropped: {drop}, its 90 % upper limit is above {problem.bound.most * 100:.1f}"


STRATEGY = Strategy(
    ranking="fidelity",
    ladders=lambda calibrated: calibrated.priced_ladders(),
    search=pareto_search,
    plans=_expected_races,
    passes=lambda stages, budgets: 1 + RANKING + ASKED * TRIED,
    guessed=True,
)
