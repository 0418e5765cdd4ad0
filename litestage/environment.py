"""What ran: hardware and versions, as they stand in every result."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

DECIDES_TOKENS = (
    *("device", "hardware", "threads", "dtype", "weights_dtype", "engine", "c_kernels"),
    *("torch", "transformers"),
)
"""What of it decides which tokens are written."""


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
