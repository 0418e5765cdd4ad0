"""What ran: hardware and versions, as they stand in every result."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any


def environment(engine: Any) -> dict[str, Any]:
    """Device, hardware, dtype, engine and versions of a run by ``engine``."""
    import torch
    import transformers

    from litestage import __version__

    decoder, device = engine.decoder, engine.decoder.device
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "engine": engine.name,
        "litestage": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
