"""One training run, from a configuration to a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import OmegaConf

from litestage.data.staged import StagedRow, read_staged
from litestage.errors import LiteStageError
from litestage.menagerie import load_split
from litestage.stages import load_pipeline
from litestage.training.checkpoint import Checkpoints
from litestage.training.examples import Example, StagedBatches, stage_examples
from litestage.training.module import StagedTraining
from litestage.training.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from litestage.training.config import ModelConfig, TrainingConfig


def train(config: TrainingConfig) -> Path:
    """Trains, saves model, tokenizer and configuration in ``config.output``, and returns that folder.

    A run that was killed goes on from its last checkpoint, and ends with the weights it would have had.

    Raises:
        LiteStageError: data, model or pipeline that cannot be used, or a checkpoint of a run with other options.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    examples = stage_examples(_rows(config), load_pipeline(config.pipeline))
    model, tokenizer = _model_and_tokenizer(config.model, examples)
    batches = StagedBatches(examples, tokenizer, config.rows, config.token_weights, config.earlier_weight, config.seed)
    checkpoints = Checkpoints(config, batches)
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator=config.accelerator,
        devices=1,
        precision=config.precision,  # type: ignore[arg-type]
        gradient_clip_val=config.gradient_clip,
        accumulate_grad_batches=config.accumulate,
        callbacks=[TQDMProgressBar(refresh_rate=10), checkpoints],
        logger=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    last = checkpoints.file if checkpoints.file.is_file() else None
    trainer.fit(StagedTraining(model, config), loader, ckpt_path=last, weights_only=True)
    output = Path(config.output)
    save(model, tokenizer, config, output)
    checkpoints.file.unlink(missing_ok=True)
    return output


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: TrainingConfig, output: Path) -> None:
    """Writes a Hugging Face folder: weights rounded to ``config.save_dtype``, tokenizer, and ``training.yaml``."""
    rounded = copy.deepcopy(model).to(getattr(torch, config.save_dtype))
    rounded.save_pretrained(output)
    tokenizer.save_pretrained(output)
    OmegaConf.save(OmegaConf.structured(config), output / "training.yaml")


def _rows(config: TrainingConfig) -> list[StagedRow]:
    rows = [row for variant in config.data.menagerie for row in load_split(variant, "train")]
    return rows + [row for file in config.data.files for row in read_staged(file)]


def _model_and_tokenizer(
    config: ModelConfig, examples: dict[str, list[Example]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if config.pretrained:
        try:
            tokenizer = AutoTokenizer.from_pretrained(config.pretrained)
            model = AutoModelForCausalLM.from_pretrained(config.pretrained, dtype=torch.float32, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise LiteStageError(
                f"The model {config.pretrained!r} cannot be loaded ({reason}); name a causal LM's folder or hub name."
            ) from None
        return model.train(), tokenizer
    architecture = dict(config.architecture)
    model_type = architecture.pop("model_type", "llama")
    texts = (text for each in examples.values() for example in each for text in (example.prompt, example.completion))
    tokenizer = train_tokenizer(texts, config.vocab_size, architecture.get("max_position_embeddings", 2048))
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    try:
        shape = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **tokens, **architecture)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise LiteStageError(f"model.architecture does not describe a model ({reason}); correct it.") from None
    return AutoModelForCausalLM.from_config(shape).train(), tokenizer
