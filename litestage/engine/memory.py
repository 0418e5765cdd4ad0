"""What memory there is, how much of it keys and values may have, and what a token's take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from litestage.decoder.decoder import Decoder

KV_SHARE = 0.5
"""Of the memory there is, what keys and values may take; the rest is for activations and for a cache that grows."""
_UNLIMITED = 1 << 60  # a cgroup without a limit names a number beyond any memory


def bytes_per_token(decoder: Decoder) -> int:
    """Bytes of one token's keys and values at full depth."""
    heads = [layer.attention.heads for layer in decoder.architecture.layers]
    return sum(2 * of_layer.keys * of_layer.width for of_layer in heads) * decoder.dtype.itemsize


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on a device; None where that is not known."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return available_host_bytes()


def available_host_bytes(root: Path = Path("/")) -> int | None:
    """What Linux says is available, or what the process's control groups leave if that is less; None elsewhere."""
    meminfo = (line.split() for line in _lines(root / "proc/meminfo"))
    known = [*(1024 * int(words[1]) for words in meminfo if words[:1] == ["MemAvailable:"]), *_control_groups(root)]
    return max(0, min(known)) if known else None


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocator, of a device or of the host, says that it has no more."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _control_groups(root: Path) -> Iterator[int]:
    """Of every group that the process is in, version 1 or 2, limit less usage; files that can be dropped are free."""
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, top = ("memory.max", "memory.current", "inactive_file"), mount
        elif "memory" in controllers.split(","):
            names, top = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"), mount / "memory"
        else:
            continue
        folder = top / path.lstrip("/")
        while True:
            limit, usage = (_number(folder / name) for name in names[:2])
            if limit is not None and usage is not None and limit < _UNLIMITED:
                parts = map(str.split, _lines(folder / "memory.stat"))
                yield limit - usage + sum(int(part[1]) for part in parts if part[0] == names[2])
            if folder == top:
                break
            folder = folder.parent


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None  # "max": no limit


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().split("\n")[:-1]
    except (OSError, UnicodeDecodeError):
        return []
