"""SPRINT without its tuning (IJCAI 2025, arXiv 2506.03510; snudm-starlab/SPRINT): sub-layers by harm per second.

One after another the sub-layer goes that turns the stream behind the next feed-forward least, divided by the seconds
that one of its kind takes (:mod:`litestage.profile.sprint`). One set for all stages. Differs from the released code:
over full depth's own outputs on the task's stage prompts instead of WikiText-2; the seconds are predicted by our step
costs instead of read off one timing; as many sub-layers as the budget says instead of a speed-up.
"""

from collections.abc import Mapping, Sequence

from litestage.methods.setting import Setting
from litestage.plan import SkipSet, StagePlan
from litestage.profile.forced import TeacherForced
from litestage.profile.sprint import Pruning


def plan(setting: Setting) -> dict[str, StagePlan]:
    places = order(setting, "sprint-bare", prices_of(setting), tunes=False)
    return dict.fromkeys(setting.stages, StagePlan(SkipSet.of_places(places)))


def prices_of(setting: Setting) -> dict[str, float]:
    """Prices of which only the ratio is left, rounded: the order depends on nothing else."""
    prices = setting.measurements.prices()
    return {"mhsa": float(f"{prices['mhsa'] / prices['ffn']:.2g}"), "ffn": 1.0}


def order(setting: Setting, method: str, prices: Mapping[str, float], tunes: bool) -> list[int]:
    """The first sub-layers to go, by their place in the decoder; kept by the prices' ratio."""

    def extend(forced: TeacherForced, known: Sequence[int], count: int) -> list[int]:
        return Pruning(forced, prices, tunes).extend(known, count)

    return setting.measurements.order(named(method, prices), setting.budget, extend)


def named(method: str, prices: Mapping[str, float]) -> str:
    """A method's order, which depends on the prices' ratio."""
    return f"{method} at {prices['mhsa']:g}"
