"""Shares of texts, several of which belong to one question, with intervals over the questions."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.stats import speedup_interval, wilson_interval


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
