"""One line of the bench: a figure of ours beside someone else's, from repeats that took turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """A comparison; seconds are medians, the ratio is of pairs: theirs over ours (above 1: ours is faster).

    Attributes:
        what, against: what was done, and what ours is beside.
        bar: the ratio that was asked for, where one was.
        note: what else to know; for a row without figures, why it was not measured.
    """

    model: str
    what: str
    against: str
    ours_s: float | None = None
    theirs_s: float | None = None
    ratio: float | None = None
    ratio_ci95: tuple[float, float] | None = None
    bar: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def take_turns(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run, ``repeats`` times in turn after one warm-up, so that a slow moment meets all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            began = perf_counter()
            run()
            if repeat:
                seconds[name].append(perf_counter() - began)
    return seconds


def compared(
    model: str,
    what: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    bar: float | None = None,
    note: str = "",
) -> Row:
    """The row of seconds that were taken in turns: each pair's ratio is of the same moment, loaded or not."""
    ratio, interval = middle(np.array(theirs) / np.array(ours))
    return Row(model, what, against, float(np.median(ours)), float(np.median(theirs)), ratio, interval, bar, note)


def middle(ratios: ArrayLike) -> tuple[float, tuple[float, float]]:
    """The median, and the 95 % interval of a bootstrap over the values."""
    values = np.asarray(ratios, dtype=float)
    drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[drawn], axis=1), [2.5, 97.5])
    return float(np.median(values)), (float(low), float(high))
