"""The training script's configuration: a YAML file and ``key=value`` overrides over the schema below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from litestage.conf import available, find
from litestage.errors import LiteStageError, did_you_mean
from litestage.overrides import configure


@dataclass
class TokenWeight:
    """Completion tokens that touch a match of the regular expression ``pattern`` count ``weight`` times in the loss."""

    pattern: str = "???"
    weight: float = 1.0


@dataclass
class DataConfig:
    """Where the training questions come from: the menagerie, staged JSONL files, or both."""

    menagerie: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """Either ``pretrained`` (a folder or hub name), or a ``transformers`` configuration to start from scratch."""

    pretrained: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    vocab_size: int = 1024


@dataclass
class TrainingConfig:
    """Everything that determines a training run.

    Attributes:
        output: folder that receives the model, the tokenizer and this configuration.
        pipeline: the stages whose prompts and completions are trained.
        rows: per stage, how many prompts go through the model at once.
        accumulate: how many times that many make one optimiser step.
        token_weights: loss weights of some completion tokens; all others count once.
        earlier_weight: what the texts of earlier stages count where a later prompt repeats them; 0 trains on
            completions only.
        learning_rate: the highest; it rises linearly over ``warmup_steps``, then follows ``schedule``.
        schedule: ``linear`` holds it, and lets it fall to 0 over the last ``decay`` (a fraction) of the steps;
            ``cosine`` lets it fall to 0 along half a cosine (TinyThinker's); ``constant`` holds it.
        precision: Lightning's: ``32-true``, or ``bf16-mixed`` (weights and optimiser in 32 bits) on a GPU that has it.
        save_dtype: what the weights are rounded to when saved.
        save_every: optimiser steps between checkpoints; the same command goes on from the last (0: there are none).
        threads: CPU threads (0: torch's choice).
    """

    output: str = "???"
    pipeline: str = "recall_analyze_summarize"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rows: dict[str, int] = field(default_factory=lambda: {"recall": 64, "analyze": 32, "summarize": 16})
    token_weights: list[TokenWeight] = field(default_factory=list)
    accumulate: int = 1
    earlier_weight: float = 0.0
    steps: int = 1000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    schedule: str = "linear"
    decay: float = 0.4
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    seed: int = 0
    precision: str = "32-true"
    save_dtype: str = "bfloat16"
    save_every: int = 0
    accelerator: str = "auto"
    threads: int = 0


_KNOWN = {
    "schedule": ("linear", "cosine", "constant"),
    "precision": ("32-true", "bf16-mixed", "bf16-true", "16-mixed"),
    "save_dtype": ("float32", "bfloat16", "float16"),
}


def load_config(source: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The configuration in ``source`` (a name in ``conf/train`` or a path to YAML), with ``key=value`` overrides.

    Raises:
        LiteStageError: no such file, a key the schema does not have, a value of the wrong type, or a missing one.
    """
    path = find("train", source)
    if path is None:
        raise LiteStageError(
            f"There is no training configuration {source!r}; {did_you_mean(source, available('train'))}"
        )
    return _checked(configure(TrainingConfig, [path], overrides))


def _checked(config: TrainingConfig) -> TrainingConfig:
    if not (config.data.menagerie or config.data.files):
        raise LiteStageError("The training data is empty; set data.menagerie=[menagerie] or data.files=[rows.jsonl].")
    if bool(config.model.pretrained) == bool(config.model.architecture):
        raise LiteStageError("Give one of model.pretrained (to fine-tune) and model.architecture (from scratch).")
    for name, number in (("steps", config.steps), ("accumulate", config.accumulate)):
        if number < 1:
            raise LiteStageError(f"{name}={number} trains nothing; give at least 1.")
    for name, known in _KNOWN.items():
        if getattr(config, name) not in known:
            raise LiteStageError(f"{name}={getattr(config, name)!r} is unknown; choose one of {', '.join(known)}.")
    return config
