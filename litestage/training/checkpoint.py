"""A killed run goes on from its last checkpoint, with the rows that were to come, in the same order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Checkpoint

from litestage.atomic import replacing
from litestage.errors import LiteStageError

if TYPE_CHECKING:
    from litestage.training.batches import Steps
    from litestage.training.config import TrainingConfig

_OPTIONS = "litestage_training"


class Checkpoints(Checkpoint):  # type: ignore[misc]
    """Has Lightning save what is trained (weights, optimiser, schedule, step) every ``save_every`` steps, in one file.

    The file is replaced in one move, so that a kill at any moment leaves a whole one.

    Args:
        made_of: digests of what no option has: the rows themselves, the model that is trained, and its tokenizer.
    """

    def __init__(self, config: TrainingConfig, steps: Steps, made_of: Mapping[str, str]) -> None:
        self.config, self.steps = config, steps
        self._options = {**asdict(config), **made_of}
        self.file = Path(config.output) / "checkpoint.ckpt"

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.config.save_every and trainer.global_step % self.config.save_every == 0:
            with replacing(self.file) as beside:  # Lightning's own move is none between two disks
                trainer.save_checkpoint(beside)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_OPTIONS] = self._options

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Passes over the rows that were trained on. Raises LiteStageError when options, rows or model were others."""
        before = checkpoint[_OPTIONS]
        other = [name for name, value in self._options.items() if before.get(name) != value]
        if other:
            was = ", ".join(f"{name}={before.get(name)}" for name in other)
            raise LiteStageError(
                f"{self.file} is from a run with other options ({was}); give those again, or remove the file."
            )
        self.steps.start = checkpoint["global_step"]
