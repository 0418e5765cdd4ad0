"""What a run will take, said before it starts: memory, seconds a step, hours in all."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from litestage.environment import peak_memory
from litestage.training.module import summed_loss

if TYPE_CHECKING:
    from litestage.training.batches import Steps
    from litestage.training.config import TrainingConfig


class Cost(Callback):  # type: ignore[misc]
    """Runs the first step's largest micro-batch forwards and backwards before training, and prints what it took.

    The first run allocates, and compiles where layers are compiled; the second is timed. Gradients are dropped.
    """

    def __init__(self, config: TrainingConfig, steps: Steps) -> None:
        self.config, self.steps = config, steps

    def on_train_start(self, trainer: Any, module: Any) -> None:
        batches = next(iter(self.steps))
        largest = max(batches, key=lambda batch: batch.input_ids.numel()).to(module.device)
        for _ in range(2):
            began = time.perf_counter()
            with trainer.strategy.precision_plugin.forward_context(), module.dropping(largest, 0):
                loss = summed_loss(module.model, largest)
            loss.backward()  # type: ignore[no-untyped-call]
            module.zero_grad()
            if module.device.type == "cuda":
                torch.cuda.synchronize(module.device)
            taken = time.perf_counter() - began
        seconds = taken * sum(batch.input_ids.numel() for batch in batches) / largest.input_ids.numel()
        left = self.config.steps - trainer.global_step
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        print(
            f"{left} steps of {trained / 1e6:.1f}M parameters on {module.device} in {trainer.precision}: about "
            f"{seconds:.1f} s a step, {seconds * left / 3600:.1f} h, and {_gigabytes():.1f} GB of memory "
            f"(and {16 * trained / 1e9:.1f} for the optimiser).",
            flush=True,
        )


def _gigabytes() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return float(peak_memory()["peak_resident_mb"]) / 1000
