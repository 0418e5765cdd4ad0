"""One training run, from a configuration to the folder of a model, or of an adapter."""

from __future__ import annotations

import copy
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf
from safetensors import SafetensorError

from litestage.atomic import writable
from litestage.data import load_task
from litestage.decoder.adapter import CONFIG
from litestage.decoder.families import family_of
from litestage.decoder.files import first_line
from litestage.decoder.generation import eos_ids
from litestage.decoder.load import fingerprint, read_model
from litestage.decoder.source import source_of
from litestage.errors import LiteStageError, known_keys, known_stages
from litestage.menagerie import load_split
from litestage.runner.termination import PlainTermination
from litestage.stages import Pipeline, load_pipeline
from litestage.stages.gold import StagedRow, read_staged
from litestage.store.identity import tokenizer_digest
from litestage.training.batches import QuestionSteps, StageSteps, Steps
from litestage.training.check import HeldOut
from litestage.training.checkpoint import Checkpoints
from litestage.training.cost import Cost
from litestage.training.examples import (
    Example,
    ExampleTokens,
    check_answers,
    check_lengths,
    check_weights,
    stage_examples,
)
from litestage.training.lora import with_lora
from litestage.training.module import StagedTraining
from litestage.training.tokenizer import train_tokenizer
from litestage.training.tree import micro_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from litestage.training.config import ModelConfig, TrainingConfig

_ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor")
"""What transformers takes for a part of rope_parameters."""
_OF_THE_TOKENIZER_BEFORE = (
    *("chat_template.jinja", "additional_chat_templates"),
    *("special_tokens_map.json", "added_tokens.json"),
)
"""Files that a tokenizer is read with where they are there, and that one without their content does not write."""


def train(config: TrainingConfig) -> Path:
    """Trains, saves model (or adapter), tokenizer and configuration in ``config.output``, and returns that folder.

    A run that was killed goes on from its last checkpoint, and ends with the weights it would have had.

    Raises:
        LiteStageError: data, model or pipeline that cannot be used, or a checkpoint of a run with other options.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    lightning.seed_everything(config.seed, verbose=False)
    output = _output(config)
    pipeline, rows = load_pipeline(config.pipeline), _rows(config)
    held_out, rows = _parted(rows, config.check.held_out if config.check.every else 0)
    precision = _precision(config.precision)
    examples = stage_examples(rows, pipeline)
    model, tokenizer = _model_and_tokenizer(config.model, examples, _dtype(config, precision))
    weights = config.token_weights, config.completion_weight, config.earlier_weight
    encode = ExampleTokens(tokenizer, *weights, eos_ids(model, tokenizer))
    check_lengths(examples, encode, model.config.get_text_config().max_position_embeddings)
    check_weights(examples, *weights)
    check_answers(rows, pipeline)
    steps = _steps(config, rows, pipeline, encode)
    made_of = {
        "digest of the rows": _digest(rows, pipeline),
        "digest of the model": fingerprint(model),
        "digest of the tokenizer": f"{tokenizer_digest(tokenizer)}, a text ends in {encode.end}",
    }
    if config.lora.rank:
        if config.model.pretrained and source_of(config.model.pretrained).adapter:
            raise LiteStageError(
                f"{config.model.pretrained!r} is an adapter, and a second one over it could not name its base; "
                "train its base, or all weights (lora.rank=0)."
            )
        model = with_lora(model, config.lora, config.model.base or str(config.model.pretrained))
    if config.compile:
        for layer in model.get_decoder().layers:  # layers are alike, so one is compiled and all use it
            layer.compile(dynamic=True)
    checkpoints = Checkpoints(config, steps, made_of)
    callbacks = [TQDMProgressBar(refresh_rate=10), Cost(config, steps), checkpoints, PlainTermination()]
    if config.check.every:
        trees = QuestionSteps(held_out, pipeline, encode, len(held_out), tokens=config.tokens)
        batches = micro_batches(next(trees.trees()), config.tokens)
        callbacks.insert(0, HeldOut(config.check.every, batches, _questions(config), pipeline, tokenizer))
    try:
        trainer = lightning.Trainer(
            max_steps=config.steps,
            accelerator=config.accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            callbacks=callbacks,
            logger=False,
            enable_model_summary=False,
            log_every_n_steps=10,
        )
    except (MisconfigurationException, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise LiteStageError(f"accelerator={config.accelerator!r} cannot be used ({reason}); give auto.") from None
    if trainer.strategy.root_device.type == "cpu":  # its fused attention is slow backward
        model.set_attn_implementation("eager")
    loader = torch.utils.data.DataLoader(steps, batch_size=None)
    last = checkpoints.file if checkpoints.file.is_file() else None
    trainer.fit(StagedTraining(model, config), loader, ckpt_path=last, weights_only=True)
    save(model, tokenizer, config, output)
    checkpoints.file.unlink(missing_ok=True)
    return output


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, config: TrainingConfig, output: Path) -> None:
    """Writes a Hugging Face folder: weights rounded to ``config.save_dtype``, tokenizer, and ``training.yaml``.

    Of a model with LoRA it is the adapter's folder; the tokenizer is the base's own.

    Raises:
        LiteStageError: weights that are no finite numbers, or a folder that cannot be written to.
    """
    rounded = copy.deepcopy(model).to(getattr(torch, config.save_dtype))
    broken = [name for name, weights in rounded.named_parameters() if not weights.isfinite().all()]
    if broken:
        raise LiteStageError(
            f"The weights {broken[0]!r} are no finite numbers after the training, and no model is saved; give a lower "
            f"learning_rate than {config.learning_rate:g}, or a wider save_dtype than {config.save_dtype}."
        )
    try:
        rounded.save_pretrained(output)
    except SafetensorError as error:  # as it says that a disk is full
        raise LiteStageError(
            f"The model cannot be written to {str(output)!r} ({error}); see to its disk and its rights. "
            "The same command goes on from the last checkpoint."
        ) from None
    if not config.lora.rank:
        for left in (output / name for name in _OF_THE_TOKENIZER_BEFORE):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        tokenizer.save_pretrained(output)
    OmegaConf.save(OmegaConf.structured(config), output / "training.yaml")


def _precision(asked: str) -> str:
    """``auto``: bfloat16 on CUDA, and on a CPU with instructions for its products."""
    if asked != "auto":
        return asked
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    quick = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16-mixed" if quick else "32-true"


def _dtype(config: TrainingConfig, precision: str) -> torch.dtype:
    """What the model is loaded in: 16 bits only where its own weights are frozen."""
    return torch.bfloat16 if config.lora.rank and precision.startswith("bf16") else torch.float32


def _output(config: TrainingConfig) -> Path:
    """The folder that receives the model, found before any work to be writable and without what would be in its way."""
    folder = writable(Path(config.output))
    adapter, model = (folder / CONFIG).is_file(), any(folder.glob("model*.safetensors"))
    if model if config.lora.rank else adapter:
        there, new = ("a whole model", "an adapter") if model else ("an adapter", "a whole model")
        raise LiteStageError(
            f"{config.output!r} holds {there}, beside which {new} could not be loaded; give another output."
        )
    return folder


def _digest(rows: Sequence[StagedRow], pipeline: Pipeline) -> str:
    """16 hex digits that change with what is trained on."""
    return hashlib.sha256(f"{pipeline.hash} {rows!r}".encode()).hexdigest()[:16]


def _rows(config: TrainingConfig) -> list[StagedRow]:
    rows = [row for variant in config.data.menagerie for row in load_split(variant, "train")]
    return rows + [row for file in config.data.files for row in read_staged(file)]


def _parted(rows: list[StagedRow], held_out: int) -> tuple[list[StagedRow], list[StagedRow]]:
    """Rows at even distances that are not trained on, and those of all other questions (a file may be named twice)."""
    places = {index * len(rows) // held_out for index in range(held_out)}
    asked = {rows[place].question for place in places}
    left = [row for row in rows if row.question not in asked]
    if not left:
        raise LiteStageError(f"check.held_out={held_out} leaves none of {len(rows)} rows to train on; hold out fewer.")
    return [rows[place] for place in sorted(places)], left


def _questions(config: TrainingConfig) -> dict[str, list[StagedRow]]:
    tasks = {name: load_task(name).questions("calibration") for name in config.check.tasks}
    return {name: [StagedRow(each, {}) for each in asked[: config.check.questions]] for name, asked in tasks.items()}


def _steps(config: TrainingConfig, rows: list[StagedRow], pipeline: Pipeline, encode: ExampleTokens) -> Steps:
    if config.rows:
        return StageSteps(stage_examples(rows, pipeline), encode, config.rows, config.tokens, config.seed)
    known_stages("sublayer_dropout", config.sublayer_dropout, pipeline.stage_names)
    options = config.stage_share, config.seen, config.tokens, config.seed, bool(config.sublayer_dropout)
    return QuestionSteps(rows, pipeline, encode, config.questions, *options)


def _model_and_tokenizer(
    config: ModelConfig, examples: dict[str, list[Example]], dtype: torch.dtype
) -> tuple[Any, PreTrainedTokenizerFast]:
    from transformers import AutoConfig, AutoModelForCausalLM

    if config.pretrained:
        read = read_model(config.pretrained, dtype=dtype)
        return read.model.requires_grad_(True).train(), read.tokenizer
    architecture = dict(config.architecture)
    model_type = architecture.pop("model_type", "llama")
    texts = (text for each in examples.values() for example in each for text in (example.prompt, example.completion))
    tokenizer = train_tokenizer(texts, config.vocab_size, architecture.get("max_position_embeddings", 2048))
    tokens = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    if taken := {"vocab_size", *tokens} & set(architecture):
        raise LiteStageError(
            f"model.architecture.{min(taken)} is the trained tokenizer's; leave it out (model.vocab_size bounds it)."
        )
    try:
        shape = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **tokens, **architecture)
        known_keys("model.architecture", architecture, [*type(shape)().to_dict(), *_ROPE])
        family_of(shape)
        return AutoModelForCausalLM.from_config(shape).train(), tokenizer
    except LiteStageError:
        raise
    except Exception as error:  # a wrong configuration raises anything
        raise LiteStageError(
            f"model.architecture does not describe a model ({first_line(error)}); correct it."
        ) from None
