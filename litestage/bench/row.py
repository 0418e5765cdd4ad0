"""One line of the bench: a figure of ours beside someone else's, from repeats that took turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np

from litestage.stats.bootstrap import median_interval


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


def seconds_of(run: Callable[[], Any]) -> float:
    began = perf_counter()
    run()
    return perf_counter() - began


def take_turns(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each run; see :func:`in_turns`."""
    return dict(zip(runs, in_turns([partial(seconds_of, run) for run in runs.values()], repeats), strict=True))


def in_turns(runs: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """What each run measures, ``repeats`` times in turn after one warm-up, so that a slow moment meets all alike."""
    rounds = [[run() for run in runs] for _ in range(repeats + 1)]
    return [list(measured) for measured in zip(*rounds[1:], strict=True)]


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
    ratio, interval = median_interval(np.array(theirs) / np.array(ours))
    return Row(model, what, against, float(np.median(ours)), float(np.median(theirs)), ratio, interval, bar, note)
