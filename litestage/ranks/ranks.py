"""Many devices: one process (rank) on each, all running the same command in step.

What a command decides must be the same on every rank, or they would wait for each other for ever. So whatever is
measured on one machine or read from a file that others write is computed by rank 0 and sent to all
(:func:`from_rank_zero`); questions are shared out (:func:`share`) and their traces put together again
(:func:`union`). Only rank 0 is heard: elsewhere standard output and the folder of the results lead nowhere.

Between ranks travel Python objects only, over gloo: a waiting NCCL kernel would keep its GPU busy.
"""

from __future__ import annotations

import atexit
import copyreg
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from litestage.errors import LiteStageError, did_you_mean

Value = TypeVar("Value")
Key = TypeVar("Key")

STRATEGIES = ("auto", "ddp")
_PATIENCE = timedelta(days=30)  # ranks wait for rank 0's timed runs; one that died is noticed by litestage.ranks.watch


class Trainer(Protocol):
    """How many processes there are to be; see :class:`litestage.config.TrainerConfig`."""

    devices: int
    num_nodes: int
    strategy: str


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


_launched: list[Ranks] = []  # as torch's process group, once for the whole process


def here() -> Ranks:
    """This process's place; rank 0 of 1 unless :func:`launch` started more."""
    return _launched[-1] if _launched else Ranks()


def launch(trainer: Trainer, device: str) -> None:
    """Starts the other ranks, unless torchrun or SLURM did, and meets them. Nothing happens for one process.

    Lightning starts them by running this command again; there the same call only joins the group.

    Raises:
        LiteStageError: no such strategy, fewer than one device or node, more devices than the machine has, another
            number of processes than torchrun or SLURM started, or another number than the first call's.
    """
    _check(trainer, device)
    wanted = trainer.devices * trainer.num_nodes
    if _launched and here().world_size != wanted:
        raise LiteStageError(f"{here().world_size} processes are running, not {wanted}; devices can't be changed now.")
    if wanted == 1 or _launched:
        return
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    from litestage.ranks.watch import watch
    from litestage.runner.quiet import quiet

    try:
        with quiet():
            strategy = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
            # the questions are text; the GPU is the engine's
            fabric = Fabric(
                accelerator="cpu",
                devices=trainer.devices,
                num_nodes=trainer.num_nodes,
                strategy=strategy,
                plugins=cluster(),
            )
            watch(fabric.strategy)
            fabric.launch()
    except (ValueError, RuntimeError) as error:
        raise LiteStageError(f"The ranks can't be started: {str(error).splitlines()[0]}") from error
    copyreg.pickle(MappingProxyType, lambda proxy: (_read_only, (dict(proxy),)))  # plans travel, too
    _launched.append(Ranks(fabric.global_rank, fabric.local_rank, trainer.devices, trainer.num_nodes))
    if fabric.global_rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
        logging.disable(logging.WARNING)
        os.environ["WANDB_MODE"] = "disabled"


def _read_only(mapping: dict[Key, Value]) -> MappingProxyType[Key, Value]:
    return MappingProxyType(mapping)


def _check(trainer: Trainer, device: str) -> None:
    import torch

    for name, number in (("devices", trainer.devices), ("num_nodes", trainer.num_nodes)):
        if number < 1:
            raise LiteStageError(f"trainer.{name} is {number}; give at least 1.")
    if trainer.strategy not in STRATEGIES:
        raise LiteStageError(f"trainer.strategy is {trainer.strategy!r}; {did_you_mean(trainer.strategy, STRATEGIES)}")
    wanted, started = trainer.devices * trainer.num_nodes, _started_by_others()
    if started is not None and started != wanted:
        raise LiteStageError(
            f"{started} processes were started, but trainer.devices x trainer.num_nodes is {wanted}; "
            f"set trainer.devices (lm_eval: devices) to the processes on one node, and trainer.num_nodes to the nodes."
        )
    if trainer.devices == 1:
        return
    if device.partition(":")[2]:
        raise LiteStageError(f"device is {device!r}, one device, but trainer.devices is {trainer.devices}; use cuda.")
    there = torch.cuda.device_count() if on_cuda(device) else trainer.devices
    if started is None and there < trainer.devices:
        raise LiteStageError(f"trainer.devices is {trainer.devices}, but the CUDA devices here are {there}; give less.")


def _started_by_others() -> int | None:
    """How many processes torchrun or srun started, this one among them; None where neither did."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    return tasks if tasks > 1 else None  # one task may be the shell of an interactive job


def cluster() -> list[Any]:
    """Lightning's plugin that says who starts the ranks: itself, or (empty) what it detects, torchrun or SLURM.

    Left to itself it takes a SLURM job's batch script, which runs once, for one of many tasks.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment

    return [LightningEnvironment()] if _started_by_others() is None else []


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


_waiting: list[None] = []


@contextmanager
def in_step() -> Iterator[None]:
    """Marks work that needs all ranks: if rank 0 ends before it is done, the job has failed (see ``watch``)."""
    _waiting.append(None)
    try:
        yield
    except LiteStageError:
        _waiting.pop()
        raise
    _waiting.pop()  # not after other errors: what broke may be a collective, because rank 0 is gone


def is_in_step() -> bool:
    return bool(_waiting)


def from_rank_zero(compute: Callable[[], Value]) -> Value:
    """What ``compute`` returns, or the LiteStageError it raises, on rank 0. The others wait, and do not compute."""
    if here().world_size == 1:
        return compute()
    import torch.distributed as dist

    found: list[Any] = [None, None]
    failure: BaseException | None = None
    if here().rank == 0:
        try:
            found[0] = compute()
        except LiteStageError as error:
            failure, found[1] = error, str(error)
    with in_step():
        dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise failure or LiteStageError(found[1])
    return found[0]  # type: ignore[no-any-return]


def share(items: Sequence[Value], *, rank_zero_only: bool = False) -> list[Value]:
    """This rank's items: every ``world_size``-th, or all on rank 0 and none elsewhere."""
    if rank_zero_only:
        return list(items) if here().rank == 0 else []
    return list(items[here().rank :: here().world_size])


def union(parts: Mapping[Key, Value]) -> dict[Key, Value]:
    """All ranks' entries, on all ranks."""
    if here().world_size == 1:
        return dict(parts)
    import torch.distributed as dist

    everywhere: list[Any] = [None] * here().world_size
    with in_step():
        dist.all_gather_object(everywhere, dict(parts))
    return {key: value for part in everywhere for key, value in part.items()}
