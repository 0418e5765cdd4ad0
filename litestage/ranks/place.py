"""This process among the others: which rank it is, on which device, and where it writes."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    Attributes:
        rank: 0 to ``world_size - 1``, over all nodes.
        local_rank: 0 to ``devices - 1``, on this node.
        devices: ranks per node.
    """

    rank: int = 0
    local_rank: int = 0
    devices: int = 1
    num_nodes: int = 1

    @property
    def world_size(self) -> int:
        return self.devices * self.num_nodes


_taken: list[Ranks] = []  # as torch's process group, once for the whole process


def here() -> Ranks:
    """This process's place; rank 0 of 1 unless :func:`litestage.ranks.launch` started more."""
    return _taken[-1] if _taken else Ranks()


def take(place: Ranks) -> None:
    """Makes ``place`` this process's for good."""
    _taken.append(place)


def on_cuda(device: str) -> bool:
    """Whether ``device``, or what ``auto`` stands for here, is CUDA."""
    import torch

    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def own_device(device: str) -> str:
    """The device of this rank: its GPU where there are several ranks on CUDA, else ``device`` as it is."""
    import torch

    if here().devices == 1 or not on_cuda(device):
        return device
    index = here().local_rank % torch.cuda.device_count()  # SLURM may show each task its own GPU only
    torch.cuda.set_device(index)
    return f"cuda:{index}"


def own_folder(folder: Path) -> Path:
    """Where this rank writes results: ``folder`` on rank 0, elsewhere a folder that is deleted at the end."""
    if here().rank == 0:
        return folder
    throwaway = tempfile.mkdtemp(prefix=f"litestage-rank-{here().rank}-")
    atexit.register(shutil.rmtree, throwaway, ignore_errors=True)
    return Path(throwaway)
