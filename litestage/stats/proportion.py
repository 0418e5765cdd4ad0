"""Shares of independent questions and of their texts, and how far they may be from the truth."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binomtest

from litestage.stats.paired import speedup_interval


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """95 % interval of a share, ``count`` of ``n``: Wilson's score interval, which has a width at 0 and 100 % too."""
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def agreement(first: Sequence[str | None], second: Sequence[str | None]) -> tuple[float, tuple[float, float]]:
    """The share of questions with the same answer, and its 95 % interval; no answer (None) twice is the same."""
    same = sum(a == b for a, b in zip(first, second, strict=True))
    return same / len(first), wilson_interval(same, len(first))


def share_of_texts(hits: Sequence[int], texts: Sequence[int]) -> tuple[float, list[float]]:
    """The share of all texts that are hits, and its 95 % interval.

    Args:
        hits, texts: by question, how many of its texts are hits, and how many it has.

    Returns:
        The share, and a bootstrap interval that draws whole questions: texts of one question are not independent. Where
        no text is a hit, or all are, that has no width; then Wilson's, as though each question had one text.
    """
    total, found = sum(texts), sum(hits)
    if not total:
        return 0.0, [0.0, 1.0]
    if found in (0, total):
        return found / total, list(wilson_interval(len(texts) if found else 0, len(texts)))
    return found / total, list(speedup_interval(hits, texts))  # a ratio of two sums over questions, as a speed-up is
