"""What the methods that leave out whole layers share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from litestage.methods.setting import NotThisBudget, Setting
from litestage.plan import SkipSet, StagePlan


def layer_budget(setting: Setting, method: str, most: int) -> int:
    """The budget in layers, at most ``most``.

    Raises:
        NotThisBudget: an odd budget, or more layers than the method can leave out.
    """
    if setting.budget % 2:
        raise NotThisBudget(
            f"{method} skips whole layers, two sub-layers each, so the budget {setting.budget} does not divide; "
            "give an even one."
        )
    count, most = setting.budget // 2, max(0, most)
    if count > most:
        raise NotThisBudget(
            f"{method} can skip at most {most} of {setting.layers} layers ({2 * most} sub-layers); "
            f"the budget asks for {count} layers."
        )
    return count


def without_layers(setting: Setting, layers: Iterable[int], phase: str = "both") -> dict[str, StagePlan]:
    """The same whole layers left out in every stage."""
    return dict.fromkeys(setting.stages, StagePlan(SkipSet.of_layers(layers), phase=phase))


def growing_from_layer_1(count: Callable[[int], int], tokens: int) -> dict[str, Any] | None:
    """The schedule by which layers 1 to ``count(t)`` are left out at the ``t``-th of at most ``tokens`` new tokens."""
    steps: list[dict[str, Any]] = []
    for token in range(1, tokens + 1):
        layers = list(range(1, count(token) + 1))
        if len(layers) > (len(steps[-1]["mhsa"]) if steps else count(0)):
            steps.append({"from": token, "mhsa": layers, "ffn": layers})
    return {"steps": steps} if steps else None
