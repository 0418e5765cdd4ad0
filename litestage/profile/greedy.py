"""Greedy orders: which unit (a sub-layer, a whole layer) is missed least, given those already left out.

Every round leaves out units in turn and measures the harm. Lazily (Minoux 1978): leaving out more rarely makes a unit
matter less, so its rise in harm of an earlier round is taken as a lower bound, and a round ends when no other unit's
bound is below the least harm measured. Of ``n`` units the first round measures all, the later ones a few. An order can
be taken up again where it ended: a larger budget continues a smaller.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from litestage.plan import SkipSet
from litestage.plan.skip import SubLayerName
from litestage.profile.forced import TeacherForced
from litestage.progress import bar

Harm = Callable[[Tensor], float]
"""What a last stream [rows, tokens, width] has lost; lower is better."""

_CHUNK = 256  # predictions at a time: two distributions over a large vocabulary each


@torch.inference_mode()
def greedy_order(
    forced: TeacherForced, units: Sequence[Sequence[SubLayerName]], count: int, harm: Harm, order: Sequence[int] = ()
) -> list[int]:
    """Indices of the first ``count`` units to leave out; ``order`` holds the first of them, known from before."""
    order = list(order)
    place = {name: index for index, name in enumerate(forced.decoder.sublayers)}

    def without(*indices: int, start: int = 0) -> list[Tensor]:
        return forced.after(SkipSet.of(name for index in indices for name in units[index]), start)

    forced.keep(without(*order))
    before = -inf if len(order) == count else harm(forced.streams[-1])
    rises = dict.fromkeys(set(range(len(units))) - {*order}, -inf)
    with bar("units ranked by what leaving them out harms", count - len(order)) as advance:
        while len(order) < count:
            queue = [(rise, index, False) for index, rise in rises.items()]
            heapq.heapify(queue)
            while not queue[0][-1]:  # until the least of all rises has been measured in this round
                index = queue[0][1]
                rises[index] = harm(without(*order, index, start=place[units[index][0]])[-1]) - before
                heapq.heapreplace(queue, (rises[index], index, True))
            order.append(queue[0][1])
            before += rises.pop(order[-1])
            start = place[units[order[-1]][0]]
            forced.keep(without(*order, start=start), start)
            advance(1)
    return order


def divergence(forced: TeacherForced) -> Harm:
    """Mean Jensen-Shannon divergence, nats per output token, of the next-token distribution from the kept one."""
    states = forced.predicting(forced.streams[-1])

    def measure(stream: Tensor) -> float:
        total = 0.0
        for before, after in zip(
            torch.split(states, _CHUNK), torch.split(forced.predicting(stream), _CHUNK), strict=True
        ):
            p, q = (forced.decoder.logits(part).log_softmax(dim=-1) for part in (before, after))
            middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
            total += float((p.exp() * (p - middle)).sum() + (q.exp() * (q - middle)).sum()) / 2
        return total / len(states)

    return measure
