"""Fidelity ranking (beyond the paper): which sub-layer a stage misses least, given those it already does without.

Greedily, the sub-layer is dropped whose removal harms the full model's own stage outputs least, teacher-forced (see
:meth:`litestage.profile.forced.TeacherForced.harm`): first those that harm nothing, by the time they save; then by rise
in harm over time saved. The rises of the earlier rounds are taken as lower bounds, so that few sub-layers are measured
again in each round.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from litestage.plan import SkipSet
from litestage.profile.forced import TeacherForced

SubLayerName = tuple[str, int]


@dataclass(frozen=True)
class FidelityRanking:
    """One stage's sub-layers in the order in which they are dropped.

    Attributes:
        order: names, first dropped first.
        harm: with the first 0, 1, 2, ... of them dropped.
        evaluations: partial forward passes it took.
    """

    order: tuple[SubLayerName, ...]
    harm: tuple[float, ...]
    evaluations: int


@torch.inference_mode()
def rank_by_fidelity(forced: TeacherForced, budget: int, saving: Mapping[str, float]) -> FidelityRanking:
    """Ranks the first ``budget`` sub-layers. ``saving``: seconds that leaving out an ``mhsa`` or ``ffn`` saves."""
    names = [sublayer.name for sublayer in forced.decoder.sublayers]
    harm = [forced.harm(forced.streams[-1])]
    dropped: list[SubLayerName] = []
    evaluations = 0

    def priority(index: int, rise: float) -> tuple[int, float]:
        saved = saving[names[index][0]]
        return (0, -saved) if rise <= 0 else (1, rise / saved)

    # (priority, index, round in which it was measured); round -1: never
    queue: list[tuple[tuple[int, float], int, int]] = [((0, -1e9), index, -1) for index in range(len(names))]
    while len(dropped) < budget and queue:
        _, index, measured = heapq.heappop(queue)
        current = len(dropped)
        streams = None
        if measured != current:
            streams = forced.after(SkipSet.of([*dropped, names[index]]), index)
            evaluations += 1
            rise = forced.harm(streams[-1]) - harm[-1]
            entry = (priority(index, rise), index, current)
            if queue and queue[0] < entry:
                heapq.heappush(queue, entry)
                continue
        dropped.append(names[index])
        if streams is None:
            streams = forced.after(SkipSet.of(dropped), index)
        forced.keep(streams, index)
        harm.append(forced.harm(streams[-1]))
    return FidelityRanking(tuple(dropped), tuple(harm), evaluations)
