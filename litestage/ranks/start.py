"""Starts the ranks and lets them meet."""

from __future__ import annotations

import copyreg
import logging
import os
import sys
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from litestage.errors import LiteStageError, at_least, one_of
from litestage.ranks.place import Ranks, here, on_cuda, take

if TYPE_CHECKING:
    from litestage.config import TrainerConfig

STRATEGIES = ("auto", "ddp")
_PATIENCE = timedelta(days=30)  # ranks wait for rank 0's timed runs; one that died is noticed by litestage.ranks.watch


def launch(trainer: TrainerConfig, device: str) -> None:
    """Starts the other ranks, unless torchrun or SLURM did, and meets them. Nothing happens for one process.

    Lightning starts them by running this command again; there the same call only joins the group.

    Raises:
        LiteStageError: no such strategy, fewer than one device or node, more devices than the machine has, another
            number of processes than torchrun or SLURM started, or another number than the first call's.
    """
    _check(trainer, device)
    wanted, running = trainer.devices * trainer.num_nodes, here().world_size
    if running > 1 and running != wanted:
        raise LiteStageError(f"{running} processes are running, not {wanted}; devices can't be changed now.")
    if wanted == running:
        return
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    from litestage.ranks.hosts import watch_hosts
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
    take(Ranks(fabric.global_rank, fabric.local_rank, trainer.devices, trainer.num_nodes))
    if trainer.num_nodes > 1:
        met = fabric.strategy.cluster_environment
        watch_hosts(met.main_address, met.main_port)
    if fabric.global_rank:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  until the process ends
        logging.disable(logging.WARNING)
        os.environ["WANDB_MODE"] = "disabled"


def _read_only(mapping: dict[Any, Any]) -> MappingProxyType[Any, Any]:
    return MappingProxyType(mapping)


def _check(trainer: TrainerConfig, device: str) -> None:
    import torch

    at_least(1, **{"trainer.devices": trainer.devices, "trainer.num_nodes": trainer.num_nodes})
    one_of("trainer.strategy", trainer.strategy, STRATEGIES)
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
        _number("RANK"), _number("LOCAL_RANK")
        return _number("WORLD_SIZE")
    tasks = _number("SLURM_STEP_NUM_TASKS", "1")
    return tasks if tasks > 1 else None  # one task may be the shell of an interactive job


def _number(variable: str, otherwise: str = "") -> int:
    """A whole number in the environment. Raises LiteStageError for anything else."""
    value = os.environ.get(variable, otherwise)
    if not value.isdecimal():
        raise LiteStageError(
            f"{variable} is {value!r}, not the whole number that torchrun or srun puts there; start the command by one "
            "of them, or take their variables out of the environment."
        )
    return int(value)


def cluster() -> list[Any]:
    """Lightning's plugin that says who starts the ranks: itself, or (empty) what it detects, torchrun or SLURM.

    Left to itself it takes a SLURM job's batch script, which runs once, for one of many tasks.
    """
    from lightning.fabric.plugins.environments import LightningEnvironment

    return [LightningEnvironment()] if _started_by_others() is None else []
