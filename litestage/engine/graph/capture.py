"""One CUDA graph of a function that only moves tensors; on other devices the function itself."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import getLogger

import torch

WARM_UP = 2
"""Runs before the capture: what a library makes at its first run must not be made inside."""


class Graphs:
    """Captures functions on one device. Their graphs share the memory for what lies between their inputs and outputs:
    only one runs at a time, and what it makes is copied to tensors made outside.

    Attributes:
        captured: how many were.
        failed: why a capture failed, once one has.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._apart: torch.cuda.Stream | None = None
        self.captured = 0
        self.failed: str | None = None

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        """What does the same as ``function`` with one launch; ``function`` where that is not possible.

        The function runs a few times and must do no harm then. It may not wait for the device.
        """
        if self._memory is None or self.failed:
            return function
        try:
            return self._graph(function)
        except RuntimeError as error:  # an operation that cannot be captured, or no memory left
            self.failed = f"a CUDA graph could not be captured: {str(error).splitlines()[0]}"
            getLogger(__name__).warning("decoding goes on step by step: %s", self.failed)
            return function

    def _graph(self, function: Callable[[], None]) -> Callable[[], None]:
        # one stream for all captures: the libraries' workspaces are made once for each stream, and kept
        apart = self._apart = self._apart or torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        current = torch.cuda.current_stream(self._device)
        apart.wait_stream(current)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.stream(apart), _no_garbage_collection():
            for _ in range(WARM_UP):
                function()
            torch.cuda.synchronize(self._device)
            # torch.cuda.graph would also collect garbage and empty the cache: most of a new mask's cost
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            try:
                function()
            finally:
                graph.capture_end()
        current.wait_stream(apart)
        self.captured += 1
        return graph.replay


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """What a collection frees may be another graph, and freeing one within a capture makes it fail."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
