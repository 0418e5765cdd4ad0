"""What a method may know when it makes a plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from litestage.errors import LiteStageError
from litestage.profile.importance import Importance


@dataclass(frozen=True)
class Setting:
    """Stages, depth and budget, and the calibration measurements for those who ask.

    Attributes:
        stages: the pipeline's stage names; ``("default",)`` for a task without stages.
        layers: layers of the model, each one attention and one feed-forward sub-layer.
        budget: sub-layers to skip in each stage.
        seed: for methods that draw.
        measure_importance: measures importance on the calibration split; called only when ``importance`` is read.

    Raises:
        LiteStageError: a negative budget, or more than the model's sub-layers.
    """

    stages: tuple[str, ...]
    layers: int
    budget: int
    measure_importance: Callable[[], Importance]
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 2 * self.layers:
            raise LiteStageError(
                f"The budget is {self.budget}; give the number of sub-layers to skip per stage, 0 to {2 * self.layers}."
            )

    @cached_property
    def importance(self) -> Importance:
        return self.measure_importance()
