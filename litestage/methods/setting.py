"""What a method may know when it makes a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from litestage.errors import LiteStageError

if TYPE_CHECKING:
    from litestage.profile import Importance
    from litestage.profile.forced import TeacherForced

Measured = TypeVar("Measured")
Extend = Callable[["TeacherForced", Sequence[int], int], list[int]]
"""Continues an order of units, known from before, to a number of them."""


class NotThisBudget(LiteStageError):
    """A method knows no plan of the budget that was asked for, others it may."""


class Measurements(Protocol):
    """What can be measured on the calibration split; nothing is until it is asked for."""

    def importance(self) -> Importance:
        """Cosines and norm ratios over the stages' prefills."""
        ...

    def prices(self) -> Mapping[str, float]:
        """Seconds that one sub-layer takes of a generation on this machine, by kind (``mhsa``, ``ffn``)."""
        ...

    def of_forced(self, measure: Callable[[TeacherForced], Measured]) -> Measured:
        """What ``measure`` finds on all stages' prompts with full depth's outputs; it may change what those keep."""
        ...

    def order(self, method: str, count: int, extend: Extend) -> list[int]:
        """The first ``count`` units of a method's greedy order: kept from before, or extended from there."""
        ...

    def steps(self, method: str, count: int, measure: Callable[[TeacherForced], Sequence[Measured]]) -> Measured:
        """What ``measure`` finds after ``count`` steps of a method's greedy order, which steps it found before served.

        Args:
            measure: what it finds after 0, 1, 2, ... steps, ``count`` at least; held while the session is open.
        """
        ...

    def of_version(self, version: str) -> Measurements:
        """The same, with orders and steps of one version of a method: an edited one is ranked anew."""
        ...


@dataclass(frozen=True)
class Setting:
    """Stages, depth and budget, and the calibration measurements for those who ask.

    Attributes:
        stages: the pipeline's stage names; ``("default",)`` for a task without stages.
        layers: layers of the model, each one attention and one feed-forward sub-layer.
        budget: sub-layers to skip in each stage.
        measurements: made on the calibration split.
        seed: for methods that draw.
        limits: by stage, the most tokens one continuation may have, where the task says.

    Raises:
        LiteStageError: a negative budget, or more than the model's sub-layers.
    """

    stages: tuple[str, ...]
    layers: int
    budget: int
    measurements: Measurements
    seed: int = 0
    limits: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 2 * self.layers:
            raise LiteStageError(
                f"The budget is {self.budget}; give the number of sub-layers to skip per stage, 0 to {2 * self.layers}."
            )

    @cached_property
    def importance(self) -> Importance:
        return self.measurements.importance()
