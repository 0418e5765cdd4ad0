"""Fidelity ranking (beyond the paper): which sub-layer a stage misses least, given those it already does without.

Greedily, the sub-layer is dropped whose removal harms the full model's own stage outputs least, teacher-forced (see
:meth:`litestage.profile.forced.TeacherForced.harms`): first those that harm nothing, by the time they save; then by
rise in harm over time saved. Little is measured that does not decide:

* rises of earlier rounds are taken as lower bounds (lazy greedy), so that few sub-layers are looked at in a round;
* a sub-layer is looked at on a part of the sequences first, and on the others only while what it does on those, less
  one standard error, would still have it dropped next (successive halving);
* once the dropped ones harm more than anybody could want, the rest follow in the order of what is known of them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt

import torch
from torch import Tensor

from litestage.plan import SkipSet
from litestage.plan.skip import SubLayerName
from litestage.profile.forced import TeacherForced

Streams = list[Tensor]


@dataclass(frozen=True)
class Ranking:
    """Sub-layers in the order in which they are dropped.

    Attributes:
        order: names, first dropped first.
        harm: with the first 0, 1, 2, ... of them dropped, as far as it was measured.
    """

    order: Sequence[SubLayerName]
    harm: Sequence[float] = ()


@torch.inference_mode()
def rank_by_fidelity(
    parts: Sequence[TeacherForced],
    budget: int,
    saving: Mapping[str, float],
    harmful: float = inf,
    advance: Callable[[int], None] = lambda dropped: None,
) -> Ranking:
    """Ranks the first ``budget`` sub-layers.

    Args:
        parts: the sequences, those that are looked at first in the first part.
        saving: seconds that leaving out an ``mhsa`` or ``ffn`` saves.
        harmful: a rise in harm over full depth's beyond which nothing more is measured.
        advance: told of every sub-layer dropped.
    """
    names = parts[0].decoder.sublayers
    before = [part.harms(part.streams[-1]) for part in parts]  # with those dropped so far
    harm = [_mean(before)]
    dropped: list[SubLayerName] = []

    def priority(index: int, found: Sequence[Tensor]) -> tuple[int, float]:
        """Smaller is dropped sooner; from the harms on the first so many parts, and what was known before."""
        rise, saved = _least_rise(found, before), saving[names[index][0]]
        if len(found) < len(parts):
            rise = max(rise, floors.get(index, -inf))
        floors[index] = rise
        return (0, -saved) if rise <= 0 else (1, rise / saved)

    floors: dict[int, float] = {}  # by sub-layer: the least rise that is expected of it
    known: dict[int, list[Tensor]] = {}  # of this round, by sub-layer: harms, part by part
    last, streams = -1, dict[int, Streams]()  # the last sub-layer that was looked at, and what it led to, by part
    queue = [((0, -inf), index, -1) for index in range(len(names))]  # priority, index, round of which it is
    while len(dropped) < budget and queue and harm[-1] - harm[0] <= harmful:
        _, index, _ = heapq.heappop(queue)
        found = known.setdefault(index, [])
        last, streams = index, streams if index == last else {}
        while len(found) < len(parts):
            part = parts[len(found)]
            after = streams[len(found)] = part.after(SkipSet.of([*dropped, names[index]]), index)
            found.append(part.harms(after[-1]))
            entry = (priority(index, found), index, len(dropped))
            if queue and queue[0] < entry:
                heapq.heappush(queue, entry)
                break
        else:
            dropped.append(names[index])
            for at, part in enumerate(parts):
                part.keep(streams[at] if at in streams else part.after(SkipSet.of(dropped), index), index)
            before, known = found, {}
            harm.append(_mean(before))
            advance(1)
    rest = [names[index] for _, index, _ in sorted(queue)]
    return Ranking(tuple([*dropped, *rest][:budget]), tuple(harm))


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).mean())


def _least_rise(found: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """The mean rise in harm over all sequences, less one standard error where not all have been looked at."""
    rises = torch.cat([after - was for after, was in zip(found, before, strict=False)])
    count, every = len(rises), sum(map(len, before))
    error = float(rises.std()) * sqrt((1 - count / every) / count) if 1 < count < every else 0.0
    return float(rises.mean()) - error
