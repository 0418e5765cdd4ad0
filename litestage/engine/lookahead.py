"""Steps that run ahead of the host: it gives the device the next few before it looks at the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from litestage.decoder.work import Work
from litestage.engine.look import Look
from litestage.engine.rows import Row
from litestage.engine.step import StaticStep

POLL = 2
"""Steps between two looks of the host. What a row is made to write beyond its end takes its time, and more steps at
once save the host little: it has all the time that the steps ahead take."""


class Lookahead:
    """The same rows, decoded step by step until the host wants something else of the lanes or their slots are full.

    Args:
        used: by lane, the slots that are taken; kept up to date.
        strides: by lane, the slots that a step takes.
        rows: by column, those that are going.
    """

    def __init__(
        self, step: StaticStep, used: list[int], strides: Sequence[int], rows: Mapping[int, Row], work: Work
    ) -> None:
        self.step, self._used, self._strides, self.rows, self._work = step, used, strides, rows, work
        self._left = min(step.most, max(row.limit - len(row.tokens) for row in rows.values()))
        self._launched = 0
        self._looks: deque[Look] = deque()

    @property
    def ahead(self) -> int:
        """Looks that the host has not taken yet."""
        return len(self._looks)

    def launch(self) -> bool:
        """Some more steps, if any are left and their slots are among those that are read; says whether."""
        room = (
            (self.step.seen - used) // stride for used, stride in zip(self._used, self._strides, strict=True) if stride
        )
        count = min(POLL, self._left, *room)
        if count < 1:
            return False
        for _ in range(count):
            self.step.run()
            self._work.forwarded(self.step.columns)
        self._work.steps += count
        for lane, stride in enumerate(self._strides):
            self._used[lane] += count * stride
        self._looks.append(self.step.look(self._launched, count))
        self._launched += count
        self._left -= count
        return True

    def look(self) -> None:
        """Gives the rows the oldest tokens that they have not got; what is beyond a row's end is dropped."""
        look = self._looks.popleft()
        if all(row.stop is not None for row in self.rows.values()):
            return
        tokens, confidences = look.read()
        for column, row in self.rows.items():
            for token, confidence in zip(tokens[column], confidences[column], strict=True):
                if row.stop is None:
                    row.push(token, confidence)
