"""DeepConf's rule, its threshold calibrated stage by stage (Fu et al., ICLR 2026, arXiv 2508.15260).

After facebookresearch/deepconf 675529d (MIT). A step's confidence is the mean negative log-probability of its k
likeliest tokens: large where one of them has nearly all the probability. The text ends once the window is full and its
mean is below the threshold, which is the (100 - eta) percentile of the least window mean of each of some warm-up texts:
with eta = 10 nine in ten texts like those would be cut somewhere, with 90 one in ten.

There warm-up is the first 16 samples of the same question and the window 2,048 tokens; here it is the stage's own texts
on calibration questions, and the window fits short stages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from litestage.errors import LiteStageError
from litestage.plan.exit.rule import ExitRule, Seen, check_count, check_number


@dataclass(frozen=True)
class DeepConf(ExitRule):
    """The mean of the last ``window`` steps' confidence over the ``k`` likeliest tokens is below ``threshold``.

    Attributes:
        threshold: of each stage; None until it is calibrated.
        eta: percent of texts that stay uncut at their least sure place, roughly.
    """

    rule: str = "deepconf"
    threshold: float | None = None
    window: int = 10
    k: int = 20
    eta: float = 90.0

    def __post_init__(self) -> None:
        if self.threshold is not None:
            check_number("threshold", self.threshold, 0, float("inf"), "a mean negative log-probability")
        check_count("window", self.window, "steps")
        check_count("k", self.k, "tokens")
        check_number("eta", self.eta, 0, 100, "a percentage")

    @property
    def signals(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"top{self.k}",)

    @property
    def lacks(self) -> str:
        return "threshold" if self.threshold is None else ""

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(window=window, eta=eta) for eta in (98.0, 90.0, 75.0, 50.0, 10.0) for window in (5, 10)]

    def stops(self, seen: Seen) -> bool:
        last = seen.signals[f"top{self.k}"][-self.window :]
        return self.threshold is not None and len(last) == self.window and fmean(last) < self.threshold

    def calibrated(self, written: Sequence[Seen]) -> ExitRule:
        """With the threshold of a stage's texts; one that is given stays. Texts shorter than the window count whole."""
        if self.threshold is not None:
            return self
        least = [self._least(seen.signals[f"top{self.k}"]) for seen in written if seen.signals[f"top{self.k}"]]
        if not least:
            raise LiteStageError("No calibration text has a token for exit rule 'deepconf'; give exit.threshold.")
        return replace(self, threshold=float(np.percentile(least, 100 - self.eta)))

    def _least(self, confidences: Sequence[float]) -> float:
        ends = range(min(self.window, len(confidences)), len(confidences) + 1)
        return min(fmean(confidences[max(0, end - self.window) : end]) for end in ends)

    def __str__(self) -> str:
        threshold = "calibrated" if self.threshold is None else f"{self.threshold:.4g}"
        return f"top-{self.k} confidence < {threshold} over {self.window}"
