"""Plans chosen over and over on questions drawn from a pool, of which the truth is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from litestage.comparison.results import estimate
from litestage.search.race import Z90
from litestage.stats.bootstrap import interval_of

PLACES = ("test", "calibration")
RULES = ("drop", "upper limit")
"""What must be within the bound: the drop as it is seen, as in the paper, or its one-sided 90 % upper limit."""


@dataclass(frozen=True)
class Table:
    """What candidates do to the questions of the pool, full depth the first of them.

    Attributes:
        lost: by candidate and question, 1 where only full depth is right, -1 where only the candidate is, else 0.
        passes: how many sub-layers the question waits for, one after another.
    """

    lost: np.ndarray
    passes: np.ndarray


def choose(table: Table, size: int, bound: float, rule: str, splits: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """By where the plan was chosen, what was reported of it and what is true, over many draws.

    Chosen is the candidate with the fewest passes of those whose drop, or its upper limit, is within the bound. What is
    reported is its drop on the test questions; those of ``calibration`` are other draws.
    """
    generator, count = np.random.default_rng(seed), table.lost.shape[1]
    truth, cost = table.lost.mean(axis=1), table.passes.mean(axis=1)
    found: dict[str, list[tuple[float, ...]]] = {place: [] for place in PLACES}
    for _ in range(splits):
        drawn = {place: generator.integers(0, count, size) for place in PLACES}
        test = drawn["test"]
        for place in PLACES:
            lost, passes = table.lost[:, drawn[place]], table.passes[:, drawn[place]].mean(axis=1)
            seen = lost.mean(axis=1)
            if rule == "upper limit":  # one discordant pair is added, so that none is not taken for certainty
                seen = seen + Z90 * np.sqrt(np.abs(lost).sum(axis=1) + 1) / size
            seen[0] = -np.inf  # full depth is always within the bound
            within = np.flatnonzero(seen <= bound)
            best = within[passes[within].argmin()]
            reported = float(table.lost[best][test].mean())
            speed = float(table.passes[0, test].sum() / table.passes[best, test].sum())
            found[place].append((reported, float(truth[best]), speed, float(cost[0] / cost[best])))
    return {place: _summary(np.array(of), bound) for place, of in found.items()}


def _summary(found: np.ndarray, bound: float) -> dict[str, Any]:
    """Means over draws of (reported drop, true drop, reported speed-up, true speed-up), with 95 % of the draws."""
    summary: dict[str, Any] = {"breaks_bound": float((found[:, 1] > bound + 1e-12).mean())}
    columns = ("reported_drop", "true_drop", "reported_speedup", "true_speedup")
    figures = {name: found[:, index] for index, name in enumerate(columns)}
    figures["optimism"] = found[:, 1] - found[:, 0]
    for name, values in figures.items():
        mean = float(values.mean())
        summary |= estimate(name, mean, interval_of(values, mean))
    return summary
