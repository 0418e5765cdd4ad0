"""What ran and what it took: hardware, versions and peak memory, as they stand in every result."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

DECIDES_TOKENS = (
    *("device", "hardware", "threads", "dtype", "weights_dtype", "engine", "c_kernels"),
    *("torch", "transformers"),
)
"""What of it decides which tokens are written."""
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes


def environment(engine: Any) -> dict[str, Any]:
    """Device, hardware, dtype, engine and versions of a run by ``engine``, and whether it runs C kernels of ours."""
    import torch
    import transformers

    from litestage import __version__

    decoder, device = engine.decoder, engine.decoder.device
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "dtype": str(decoder.dtype).removeprefix("torch."),
        **({"weights_dtype": "int8"} if decoder.int8 else {}),  # else the same
        "engine": engine.name,
        "c_kernels": bool(engine.kernels),
        "litestage": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    """The processor's name with its family and model, since a virtual machine's name alone covers several, and the
    instructions that PyTorch uses on it: both decide the last digit of a sum."""
    import torch

    about = _first_processor(Path("/proc/cpuinfo"))
    name = about.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{key.removeprefix('cpu ')} {about[key]}" for key in ("cpu family", "model") if key in about]
    return ", ".join([name, *numbers, torch.backends.cpu.get_cpu_capability()])


@cache
def _first_processor(cpuinfo: Path) -> dict[str, str]:
    if not cpuinfo.is_file():
        return {}
    lines = cpuinfo.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


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
