"""Tables of candidates with known true drops, and searches simulated over them, many at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from litestage.search.certify import walk_order
from litestage.search.race import Z90
from litestage.stats import Bound
from litestage.stats.paired import Array

CANDIDATES = 12


@dataclass(frozen=True)
class Table:
    """Candidates by rising speed.

    Attributes:
        speedup: [candidates], against full depth.
        lost, gained: [candidates], probabilities that a question is.
        nested: whether a question that a candidate loses is lost by all that are likelier to lose one; else candidates
            lose independently of each other.
    """

    name: str
    speedup: Array
    lost: Array
    gained: Array
    nested: bool

    @property
    def drop(self) -> Array:
        return self.lost - self.gained

    def counts(self, n: int, searches: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Questions lost and gained, [searches, candidates] each, of n drawn anew for every search."""
        if self.nested:
            return _nested(self.lost, n, searches, rng), _nested(self.gained, n, searches, rng)
        lost = rng.binomial(n, self.lost, (searches, len(self.lost)))
        return lost, rng.binomial(n - lost, self.gained / (1 - self.lost))


def tables(bound: float) -> list[Table]:
    """Shapes that a search may meet, the worst for a guarantee among them."""
    speedup = np.linspace(1.1, 2.2, CANDIDATES)
    rising, flat = np.geomspace(0.02, 5, CANDIDATES) * bound, np.ones(CANDIDATES)
    changed = np.geomspace(0.001, 0.08, CANDIDATES)
    shuffled = (5 * np.arange(CANDIDATES)) % CANDIDATES
    shapes = {
        "losses rise with speed": (rising, 0 * flat),
        "a cliff just past the bound": (np.where(speedup < 1.6, 0.1, 1.02) * bound, 0 * flat),
        "all just past the bound": (1.02 * bound * flat, 0 * flat),
        "a weak model: much is lost and gained": (rising + 0.06, 0.06 * flat),
        "a weak model: safe plans change little": (rising + changed, changed),
        "a weak model, all just past the bound": (1.02 * bound + 0.06 * flat, 0.06 * flat),
        "speed says nothing of losses": (rising[shuffled], 0 * flat),
    }
    return [
        Table(name, speedup, lost, gained, nested)
        for nested in (False, True)
        for name, (lost, gained) in shapes.items()
    ]


@dataclass(frozen=True)
class Outcome:
    """What the searches over a table chose.

    Attributes:
        broken: [searches], whether the plan chosen breaks the bound.
        certified: [searches], whether any plan but full depth was chosen.
        speedup: [searches], of the plan chosen.
    """

    broken: Array
    certified: Array
    speedup: Array


def simulate(table: Table, bound: Bound, searched: int, n: int, searches: int, rng: np.random.Generator) -> Outcome:
    """Searches that try all candidates on so many questions, and walk those within the bound on n others."""
    found_lost, found_gained = table.counts(searched, searches, rng)
    loss = (found_lost - found_gained) / searched
    changed = found_lost + found_gained
    lost, gained = table.counts(n, searches, rng)
    passed = lost <= bound.most_lost(n)[gained]
    seconds, drops = 1 / table.speedup, table.drop
    speedup, broken = np.ones(searches), np.zeros(searches, dtype=bool)
    for search in range(searches):
        within = np.flatnonzero(loss[search] <= bound.most)
        for place in walk_order(seconds[within].tolist(), changed[search, within].tolist(), 1.0):
            candidate = within[place]
            if not passed[search, candidate]:
                break
            speedup[search], broken[search] = table.speedup[candidate], drops[candidate] > bound.most
    return Outcome(broken, speedup > 1, speedup)


def uncertified(table: Table, bound: Bound, n: int, searches: int, rng: np.random.Generator) -> Outcome:
    """Searches that choose the fastest candidate within the bound on all n questions, as they did without a guarantee.

    Within the bound is the drop's one-sided 90 % upper limit, as in :mod:`litestage.search.race`.
    """
    lost, gained = table.counts(n, searches, rng)
    within = (lost - gained + Z90 * np.sqrt(lost + gained + 1)) / n <= bound.most
    chosen = np.where(within, np.arange(len(table.speedup)), -1).max(axis=1)
    speedup = np.where(chosen < 0, 1.0, table.speedup[chosen])
    return Outcome((chosen >= 0) & (table.drop[chosen] > bound.most), chosen >= 0, speedup)


def _nested(shares: Array, n: int, searches: int, rng: np.random.Generator) -> Array:
    """Counts [searches, candidates] where whoever has the larger share has all that a smaller one has."""
    edges, place = np.unique(shares, return_inverse=True)
    cells = np.diff(np.concatenate([[0.0], edges, [1.0]]))
    return np.asarray(rng.multinomial(n, cells, searches).cumsum(axis=1)[:, place])
