"""Uniform layer skipping: whole layers at even distances, the first and the last kept.

UnifiedSkip (arXiv 2404.06954) keeps evenly spaced layers. Its released selection drops a contiguous tail for speed-ups
below 2, and AdaSkip's port of it (skip ``i mod (L // N) == 1``) skips a number of layers other than N. This variant
skips exactly N layers, at ``round(1 + j (L - 3) / (N - 1))``, in prefill and decode, without training.
"""

from litestage.errors import LiteStageError
from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan


def layers_to_skip(layers: int, count: int) -> tuple[int, ...]:
    """``count`` evenly spaced layers of the inner ``layers - 2``."""
    if count > layers - 2:
        raise LiteStageError(
            f"uniform keeps the first and last layer, so it can skip {max(0, layers - 2)} of {layers} layers "
            f"({2 * max(0, layers - 2)} sub-layers); the budget asks for {count} layers."
        )
    if count == 1:
        return ((layers - 1) // 2,)
    return tuple(round(1 + j * (layers - 3) / (count - 1)) for j in range(count))


def plan(setting: Setting) -> dict[str, StagePlan]:
    if setting.budget % 2:
        raise LiteStageError(
            f"uniform skips whole layers, two sub-layers each, so the budget {setting.budget} does not divide; "
            "give an even one."
        )
    chosen = layers_to_skip(setting.layers, setting.budget // 2)
    return {stage: StagePlan(skip=SkipSet(chosen, chosen)) for stage in setting.stages}
