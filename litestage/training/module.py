"""The Lightning module: next-token loss on what stages write, AdamW, a rate that warms up and falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from litestage.training.config import TrainingConfig
    from litestage.training.examples import Batch


class StagedTraining(lightning.LightningModule):  # type: ignore[misc]
    """Trains all parameters of a Hugging Face causal LM on steps from `StagedBatches`."""

    def __init__(self, model: PreTrainedModel, config: TrainingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def training_step(self, batches: list[Batch], step: int) -> torch.Tensor:
        """The weighted mean of -log p(token) over the completion tokens of all stages."""
        losses, weights = zip(*(self._loss(batch) for batch in batches), strict=True)
        loss = torch.stack(losses).sum() / torch.stack(weights).sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def _loss(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        # Causal attention never looks right, so padding on the right needs no mask.
        logits = self.model(input_ids=batch.input_ids, use_cache=False).logits[:, :-1].float()
        targets, weights = batch.input_ids[:, 1:], batch.weights[:, 1:]
        trained = weights > 0
        loss = functional.cross_entropy(logits[trained], targets[trained], reduction="none")
        return (loss * weights[trained]).sum(), weights.sum()

    def configure_optimizers(self) -> Any:
        config = self.config
        # Norms (one dimension) are not pulled towards zero.
        matrices = [p for p in self.model.parameters() if p.ndim > 1]
        vectors = [p for p in self.model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(config, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rate(config: TrainingConfig, step: int) -> float:
    """The learning rate at a step, from 0, as a share of the highest."""
    warm_up = (step + 1) / max(1, config.warmup_steps)
    if config.schedule == "constant":
        return min(1.0, warm_up)
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return min(warm_up, (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2)
    return min(1.0, warm_up, (config.steps - step) / max(1.0, config.decay * config.steps))
