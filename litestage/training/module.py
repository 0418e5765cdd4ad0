"""The Lightning module: next-token loss on what stages write, AdamW, a rate that warms up and falls."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import lightning
import torch
from torch.nn import functional

from litestage.decoder.families import family_of
from litestage.training.dropout import SublayerDropout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from litestage.training.config import TrainingConfig
    from litestage.training.tree import TreeBatch


class StagedTraining(lightning.LightningModule):  # type: ignore[misc]
    """Trains a Hugging Face causal LM on steps from :class:`litestage.training.batches.Steps`.

    One step's micro-batches go through one after the other, so that memory holds the activations of one only.
    """

    automatic_optimization = False
    strict_loading = False  # a checkpoint holds what is trained, and a LoRA trains little of the model

    def __init__(self, model: PreTrainedModel, config: TrainingConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        rates = {stage: each for stage, each in config.sublayer_dropout.items() if each}
        self.dropout = SublayerDropout(model, rates, config.seed) if rates else None

    def training_step(self, batches: list[TreeBatch], step: int) -> None:
        """One optimiser step on the weighted mean of -log p(token) over all targets of all micro-batches."""
        optimizer: Any = self.optimizers()
        total = torch.stack([batch.weights.sum() for batch in batches]).sum()
        total = total.clamp(min=torch.finfo(total.dtype).tiny)  # patterns alone may leave a step without a weight
        loss = torch.zeros((), device=self.device)
        for index, batch in enumerate(batches):
            with self.dropping(batch, index):
                part = summed_loss(self.model, batch) / total
            self.manual_backward(part)
            loss += part.detach()
        self.clip_gradients(optimizer, self.config.gradient_clip, "norm")
        optimizer.step()
        optimizer.zero_grad()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.log("loss", loss, prog_bar=True)

    def dropping(self, batch: TreeBatch, part: int) -> AbstractContextManager[None]:
        """While it is open the model goes without the sub-layers that are dropped in this part of the step."""
        if self.dropout is None:
            return nullcontext()
        return self.dropout.dropping(batch.stages, self.global_step, part, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        trained = {f"model.{name}" for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        checkpoint["state_dict"] = {name: t for name, t in checkpoint["state_dict"].items() if name in trained}

    def configure_optimizers(self) -> Any:
        config = self.config
        # Norms (one dimension) are not pulled towards zero.
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if parameter.ndim > 1]
        vectors = [parameter for parameter in trained if parameter.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(config, step))
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def summed_loss(model: Any, batch: TreeBatch) -> torch.Tensor:
    """The sum over the batch's targets of weight times -log p(token), in float32."""
    # The head sees the positions that predict a target only: a row of logits is as wide as the vocabulary.
    hook = model.get_output_embeddings().register_forward_pre_hook(
        lambda head, inputs: (inputs[0][batch.rows, batch.columns][None],)
    )
    try:
        masks = _masks(model, batch)
        outputs = model(input_ids=batch.input_ids, attention_mask=masks, position_ids=batch.positions, use_cache=False)
    finally:
        hook.remove()
    logits = outputs.logits[0]
    return (functional.cross_entropy(logits.float(), batch.targets, reduction="none") * batch.weights).sum()


def _masks(model: Any, batch: TreeBatch) -> Any:
    """The trees' attention mask as the model takes it: by kind of layer where some have a sliding window."""
    if batch.sees is None:
        return None
    config = model.config.get_text_config()
    window = family_of(config).window

    def taken(sees: torch.Tensor) -> torch.Tensor:
        if config._attn_implementation != "eager":
            return sees
        return torch.zeros(sees.shape, device=sees.device).masked_fill(~sees, torch.finfo(torch.float32).min)

    if window == "none" or config.sliding_window is None:
        return taken(batch.sees)
    # A window reaches so many positions back, and a token's position is its depth.
    near = (batch.positions[:, None, :, None] - batch.positions[:, None, None, :]) < config.sliding_window
    if window == "all":
        return taken(batch.sees & near)
    return {"full_attention": taken(batch.sees), "sliding_attention": taken(batch.sees & near)}


def rate(config: TrainingConfig, step: int) -> float:
    """The learning rate at a step, from 0, as a share of the highest."""
    warm_up = (step + 1) / max(1, config.warmup_steps)
    if config.schedule == "constant":
        return min(1.0, warm_up)
    if config.schedule == "cosine":
        done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return min(warm_up, (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2)
    return min(1.0, warm_up, (config.steps - step) / max(1.0, config.decay * config.steps))
