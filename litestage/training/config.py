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
        rows: per stage, how many prompts each optimiser step trains on.
        token_weights: loss weights of some completion tokens; all others count once.
        earlier_weight: what the texts of earlier stages count where a later prompt repeats them; 0 trains on
            completions only.
        learning_rate: the highest; it rises over ``warmup_steps``, holds, and falls to 0 over the last ``decay`` (a
            fraction) of the steps, linearly both times.
        save_dtype: what the weights are rounded to when saved.
        save_every: optimiser steps between saves on the way (0: only at the end).
        threads: CPU threads (0: torch's choice).
    """

    output: str = "???"
    pipeline: str = "recall_analyze_summarize"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    rows: dict[str, int] = field(default_factory=lambda: {"recall": 64, "analyze": 32, "summarize": 16})
    token_weights: list[TokenWeight] = field(default_factory=list)
    earlier_weight: float = 0.0
    steps: int = 1000
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay: float = 0.4
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    seed: int = 0
    precision: str = "32-true"
    save_dtype: str = "bfloat16"
    save_every: int = 0
    accelerator: str = "auto"
    threads: int = 0


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
    if config.steps < 1:
        raise LiteStageError(f"steps={config.steps} trains nothing; give at least 1.")
    if config.save_dtype not in ("float32", "bfloat16", "float16"):
        raise LiteStageError(f"save_dtype={config.save_dtype!r} is unknown; choose float32, bfloat16 or float16.")
    return config
