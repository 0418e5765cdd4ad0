"""What a few steps wrote, copied from the device while it goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class Look:
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


def _copied(part: Tensor) -> Tensor:
    return torch.empty(part.shape, dtype=part.dtype, pin_memory=part.is_cuda).copy_(part, non_blocking=True)
