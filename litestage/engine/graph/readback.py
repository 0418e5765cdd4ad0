"""Steps that run ahead of the host: it gives the device the next few before it reads back the last."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litestage.decoder.work import Work
from litestage.engine.rows import Row

if TYPE_CHECKING:
    from litestage.engine.graph.decode_step import DecodeStep

MAX_STEPS = 256
"""Steps between two entries of rows at most."""
POLL = 2
"""Steps between two looks of the host. What a row is made to write beyond its end takes its time, and more steps at
once save the host little: it has all the time that the steps ahead take."""


class Readback:
    """A copy of tokens, and of confidences where they are kept, each [steps, columns], on its way to the host.

    On CUDA the copy goes to pinned memory behind the steps that wrote it, and only :meth:`read` waits, for that copy
    alone: not for what the device was given to do since.
    """

    def __init__(self, tokens: Tensor, confidences: Tensor | None) -> None:
        self._tokens = _copied(tokens)
        self._confidences = None if confidences is None else _copied(confidences)
        self._arrived: torch.cuda.Event | None = None
        if tokens.is_cuda:
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(tokens.device))

    def read(self) -> tuple[list[list[int]], list[list[float]] | list[list[None]]]:
        """Tokens and confidences (None where none are kept) by column."""
        if self._arrived is not None:
            self._arrived.synchronize()
        tokens = self._tokens.T.tolist()
        if self._confidences is None:
            return tokens, [[None] * len(column) for column in tokens]
        return tokens, self._confidences.T.tolist()


class Lookahead:
    """The same rows, decoded step by step until the host wants something else of the lanes or their slots are full.

    Args:
        used: by lane, the slots that are taken; kept up to date.
        strides: by lane, the slots that a step takes.
        rows: by column, those that are going.
    """

    def __init__(
        self, step: DecodeStep, used: list[int], strides: Sequence[int], rows: Mapping[int, Row], work: Work
    ) -> None:
        self.step, self._used, self._strides, self.rows, self._work = step, used, strides, rows, work
        self._left = min(MAX_STEPS, max(row.left for row in rows.values()))
        self._launched = 0
        self._looks: deque[Readback] = deque()

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
        self._looks.append(self.step.written(self._launched, count))
        self._launched += count
        self._left -= count
        return True

    def look(self) -> None:
        """Gives the rows the oldest tokens that they have not got; what is beyond a row's end is dropped."""
        look = self._looks.popleft()
        if not any(row.going for row in self.rows.values()):
            return
        tokens, confidences = look.read()
        for column, row in self.rows.items():
            for token, confidence in zip(tokens[column], confidences[column], strict=True):
                if row.going:
                    row.push(token, confidence)


def _copied(part: Tensor) -> Tensor:
    return torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda).copy_(part, non_blocking=True)
