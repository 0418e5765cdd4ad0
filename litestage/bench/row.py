"""One line of the bench: a figure of ours beside someone else's, from repeats that took turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Row:
    """A comparison; seconds are medians and the ratio is theirs over ours (above 1: ours is faster).

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
    """The row of paired seconds: the ratio of medians, with the 95 % interval of a bootstrap over pairs."""
    times = np.array([theirs, ours])
    drawn = np.random.default_rng(0).integers(0, times.shape[1], (RESAMPLES, times.shape[1]))
    medians = np.median(times[:, drawn], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    of_theirs, of_ours = (float(value) for value in np.median(times, axis=1))
    ratio = of_theirs / of_ours
    return Row(model, what, against, of_ours, of_theirs, ratio, (float(low), float(high)), bar, note)
