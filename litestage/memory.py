"""Peak memory, as far as one process can know it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from typing import Any

_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def peak_memory() -> dict[str, Any]:
    """The most memory this process has held so far, in MB of 1,000,000 bytes, with what that covers.

    Methods share a process, its weights and what its allocators keep, so a resident set cannot be split by method.
    """
    return {
        "peak_resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / 1e6, 1),
        "covers": "the whole command in one process: libraries, weights and all that ran in it together",
    }


def peak_cuda_mb(device: Any, run: Callable[[], object]) -> float | None:
    """The most that torch had allocated on a CUDA device during ``run``, in MB; None on other devices.

    All that was allocated before counts too: the weights, and those of other loaded models.
    """
    if device.type != "cuda":
        return None
    import torch

    torch.cuda.reset_peak_memory_stats(device)
    run()
    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
