"""Facts found by words: a book of short texts, and those of them that say the most about what is asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import numpy as np

_LITTLE = """
a about after all also an and any are as at be because been being but by can could did do does for from had has have he
her him his how i if in into is it its just like likely may me might more most must my of on one or our out s she should
so some such t than that the their them then there these they this those to up used was we were what when where which
while who whom whose why will with would you your following
"""
LITTLE_WORDS = frozenset(_LITTLE.split())
"""Words that say nothing about what a text is about."""


def stems(text: str) -> frozenset[str]:
    """The key words by their first five letters without a plural's, so that *shop* and *shops* are one."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    kept = [word for word in words if word not in LITTLE_WORDS] or words
    return frozenset((word.rstrip("s") or word)[:5] for word in kept)


class FactBook:
    """Texts ranked by TF-IDF over their stems (each counts once in a text).

    Args:
        facts: in a fixed order, which decides between equals; one that differs in case only is the same fact.
    """

    def __init__(self, facts: Iterable[str]) -> None:
        first: dict[str, str] = {}
        for fact in facts:
            first.setdefault(fact.lower(), fact)
        self.facts: Sequence[str] = list(first.values())
        found: dict[str, list[int]] = {}
        for place, fact in enumerate(self.facts):
            for stem in stems(fact):
                found.setdefault(stem, []).append(place)
        self._places = {stem: np.array(places) for stem, places in found.items()}
        self._words = np.array([len(fact.split()) for fact in self.facts])
        squares = np.zeros(len(self.facts))
        for stem, places in self._places.items():
            squares[places] += self.rarity(stem) ** 2
        self._lengths = np.sqrt(squares)

    def rarity(self, stem: str) -> float:
        """Inverse document frequency; a stem that no fact has is the rarest."""
        return float(np.log((1 + len(self.facts)) / (1 + len(self._places.get(stem, ())))) + 1)

    def nearest(
        self,
        about: Collection[str],
        also: Collection[str] = (),
        *,
        count: int = 1,
        covers: float = 0.5,
        words: int = 60,
        but: Collection[str] = (),
    ) -> list[str]:
        """The facts nearest to ``about`` by cosine, nearest first, perhaps none.

        Args:
            about: stems; a fact must have at least the share ``covers`` of them, weighed by rarity.
            also: stems that count for a third and need not be there.
            words: the longest fact allowed.
            but: facts that are not wanted.
        """
        score, covered = np.zeros(len(self.facts)), np.zeros(len(self.facts))
        for stem in sorted({*about, *also}):
            places, rarity = self._places.get(stem), self.rarity(stem)
            if places is not None:
                score[places] += rarity**2 * (1 if stem in about else 1 / 3)
                covered[places] += rarity * (stem in about)
        enough = max(covers * sum(map(self.rarity, sorted(about))), 1e-9)
        fits = np.flatnonzero((covered >= enough - 1e-9) & (self._words <= words))
        ranked = fits[np.argsort(-(score[fits] / self._lengths[fits]).round(9), kind="stable")]
        unwanted = {fact.lower() for fact in but}
        chosen = (self.facts[place] for place in ranked.tolist())
        return list(islice((fact for fact in chosen if fact.lower() not in unwanted), count))


def within(texts: Iterable[str], *, count: int, words: int) -> list[str]:
    """The first texts, at most ``count``, that have at most so many words together; at least one, cut if need be."""
    chosen: list[str] = []
    left = words
    candidates = list(texts)
    for text in candidates:
        if len(chosen) < count and len(text.split()) <= left:
            chosen.append(text)
            left -= len(text.split())
    return chosen or [" ".join(text.split()[:words]) for text in candidates[:1]]
