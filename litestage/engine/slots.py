"""The slots that a lane is made of: what one may hold, and where a layer keeps all lanes' keys and values."""

from __future__ import annotations

from torch import Tensor

FREE = 1 << 40
"""Position of a slot that holds nothing: later than any query, so never seen."""
SHARED = -1
"""Branch of a slot that all of its lane's rows see."""

Token = tuple[int, int, int]
"""Token id, position and branch."""


class Buffer:
    """One layer's keys and values, ``whole`` [2, heads, lanes, slots, width], and the views that are used of it."""

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole
        self.flat = whole.view(2 * whole.shape[1], -1, whole.shape[-1])
        self._seen = 0
        self._views = (whole, whole)

    def views(self, seen: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first ``seen`` slots, each [lanes, heads, seen, width]."""
        if seen != self._seen:
            of_lanes = self.whole[:, :, :, :seen].transpose(1, 2)
            self._seen, self._views = seen, (of_lanes[0], of_lanes[1])
        return self._views
