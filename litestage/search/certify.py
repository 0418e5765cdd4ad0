"""The guarantee: candidates are walked from safe to fast on questions that the search has not seen, and each is tested.

Fixed-sequence testing (Learn then Test, Angelopoulos et al., arXiv 2110.01052; Pareto Testing, Laufer-Goldshtein and
others, arXiv 2210.07913). The order is set by the search's own questions alone. For each candidate in turn the
hypothesis is that it breaks the bound (:mod:`litestage.stats.bound`); the walk ends at the first for which that is not
refused at the level. Then with the stated confidence every candidate passed keeps the bound, however many were walked
and whatever the search did: the walk goes wrong only by refusing the first true hypothesis in its order, one test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from litestage.plan import Certificate, Plan, StagePlan
from litestage.search.candidate import Candidate
from litestage.search.problem import SearchProblem
from litestage.search.race import looks

EQUALLY_FAST = 0.01
"""Candidates within this share of each other's latency are one step of the walk: step costs are not more exact."""
START = 0.25
"""The walk begins with the slowest candidate that saves at least this share of what the fastest saves."""


@dataclass(frozen=True)
class Step:
    """One candidate on the confirming questions.

    Attributes:
        plan: its hash.
        asked: of how many; fewer than all where it could no longer pass.
        lost, gained: see :class:`litestage.plan.Certificate`.
        p: the test's p-value; of a candidate that was not asked all, if it lost none of the others.
        passed: whether it keeps the bound, by the test.
    """

    plan: str
    asked: int
    lost: int
    gained: int
    p: float
    passed: bool


@dataclass(frozen=True)
class Walk:
    """The steps made, the last of which did not pass unless all did; and the certificates, by the plan's hash."""

    questions: int
    steps: Sequence[Step] = ()
    certificates: dict[str, Certificate] = field(default_factory=dict)


def walk(problem: SearchProblem, candidates: Sequence[Candidate], full: Candidate) -> Walk:
    """Walks those of the candidates that were tried on all of the search's questions and kept the bound there."""
    fewest = problem.bound.fewest
    if fewest is None or len(problem.confirm) < fewest:
        return Walk(len(problem.confirm))
    tried = [c for c in candidates if c.questions == len(problem.questions) and problem.kept_by(c)]
    plans = [problem.plan(c.rungs, c.exit_rule) for c in tried]
    standings = [problem.answers.standing(plan, problem.questions) for plan in plans]
    steps: list[Step] = []
    certificates: dict[str, Certificate] = {}
    changed = [of.lost + of.gained for of in standings]
    inside = [[_inside(plan, other) for other in plans] for plan in plans]
    for index in walk_order([c.latency_s for c in tried], changed, full.latency_s, inside):
        plan = plans[index]
        step = _step(problem, plan)
        steps.append(step)
        if not step.passed:
            break
        certificates[plan.hash] = problem.certificate(plan, step)
    return Walk(len(problem.confirm), steps, certificates)


def walk_order(
    seconds: Sequence[float],
    changed: Sequence[int],
    full_seconds: float,
    inside: Sequence[Sequence[bool]] | None = None,
) -> list[int]:
    """Indices of the candidates to walk, from safe to fast, by what the search knows of them.

    Safe is what changes few of full depth's answers, right ones or wrong: of the same drop the test is the less sure
    the more is lost and gained, and of few questions what is gained is mostly luck. Left out are candidates that change
    more than a faster one that they do not lie inside, of equally fast ones all but the one that changes least, and
    those that save too little to begin with. A candidate inside a faster one skips no more anywhere: where it changed
    more of the search's few questions, that was luck, and it is walked first.

    Args:
        seconds: by candidate, predicted for a question.
        changed: by candidate, how many questions it lost or gained.
        full_seconds: full depth's.
        inside: [candidate][other], whether a candidate lies inside another; None: none does.
    """
    kept: list[int] = []
    for index in sorted(range(len(seconds)), key=lambda index: (seconds[index], changed[index])):
        if any(changed[index] > changed[faster] and not (inside and inside[index][faster]) for faster in kept):
            continue
        if kept and seconds[index] <= (1 + EQUALLY_FAST) * seconds[kept[-1]]:
            if changed[index] < changed[kept[-1]]:
                kept[-1] = index
            continue
        kept.append(index)
    saved = [full_seconds - seconds[index] for index in kept]
    return [index for index, save in zip(kept, saved, strict=True) if save >= START * saved[0]][::-1]


def _inside(plan: Plan, other: Plan) -> bool:
    """Whether a plan leaves out nothing that another does not, of layers or of text."""

    def stage_inside(one: StagePlan, of_other: StagePlan) -> bool:
        left_out = set(one.skip.names) <= set(of_other.skip.names) and one.exit in (None, of_other.exit)
        alike = all(getattr(one, part) == getattr(of_other, part) for part in ("compensation", "phase", "schedule"))
        return left_out and (alike or not one.skip)

    return all(stage_inside(stage, other.stages[name]) for name, stage in plan.stages.items())


def _step(problem: SearchProblem, plan: Plan) -> Step:
    """Asks growing parts of the questions, those that earlier candidates lost first, until it is clear how it ends.

    What ends it early could not have ended otherwise, so the level is that of asking all.
    """
    bound, answers = problem.bound, problem.answers
    asked = sorted(problem.confirm, key=lambda question: -answers.lost[question.id])
    for count in looks(len(asked)):
        so_far = answers.standing(plan, asked[:count])
        p = bound.p_value(answers.at_best(so_far, asked[count:]))
        if p > bound.level:
            return Step(plan.hash, count, so_far.lost, so_far.gained, p, passed=False)
    return Step(plan.hash, len(asked), so_far.lost, so_far.gained, p, passed=True)
