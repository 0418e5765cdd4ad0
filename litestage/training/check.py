"""Held-out loss and accuracy while training goes on, in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.callbacks import Callback

from litestage.training.evaluate import evaluate
from litestage.training.module import summed_loss

if TYPE_CHECKING:
    from litestage.stages import Pipeline
    from litestage.stages.gold import StagedRow
    from litestage.training.tree import TreeBatch


class HeldOut(Callback):  # type: ignore[misc]
    """Prints, every ``every`` steps and at the end, the mean loss on held-out rows and the accuracy by task.

    Args:
        batches: the held-out rows.
        questions: by task, calibration questions, which no training row repeats.
    """

    def __init__(
        self,
        every: int,
        batches: Sequence[TreeBatch],
        questions: dict[str, list[StagedRow]],
        pipeline: Pipeline,
        tokenizer: Any,
    ) -> None:
        self.every, self.batches, self.questions = every, batches, questions
        self.pipeline, self.tokenizer = pipeline, tokenizer

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            print(f"step {trainer.global_step}: {self.look(trainer, module)}", flush=True)

    def look(self, trainer: Any, module: Any) -> str:
        """What is found now, in words."""
        module.model.eval()
        said = []
        # What was compiled for training would be compiled anew for generation with its cache.
        eager = torch.compiler.set_stance("force_eager")
        with eager, torch.no_grad(), trainer.strategy.precision_plugin.forward_context():
            if self.batches:
                moved = [each.to(module.device) for each in self.batches]
                weight = sum(float(each.weights.sum()) for each in moved) or 1.0  # none that counts: 0 of 1
                said.append(f"held-out loss {sum(float(summed_loss(module.model, b)) for b in moved) / weight:.3f}")
            for task, rows in self.questions.items():
                found = evaluate(module.model, self.tokenizer, rows, self.pipeline, batch_size=32)
                unparsed = f", {found.parse_failures:.0%} unparsed" if found.parse_failures else ""
                said.append(f"{task} {found.accuracy:.0%} of {found.n}{unparsed}")
        module.model.train()
        return ", ".join(said)
