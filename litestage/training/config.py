"""The training script's configuration: a YAML file and ``key=value`` overrides over the schema below."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from operator import attrgetter
from typing import Any

from litestage.conf import named
from litestage.errors import LiteStageError, one_of
from litestage.overrides import configure


@dataclass
class TokenWeight:
    """Completion tokens that touch a match of the regular expression ``pattern`` count ``weight`` times in the loss.

    ``balanced`` shares the weight among a question's equal matches: each wording weighs the same, however frequent.
    """

    pattern: str = "???"
    weight: float = 1.0
    balanced: bool = False


@dataclass
class LoraOptions:
    """Low-rank adaptation (rank 0: all weights are trained). ``alpha`` 0 is twice the rank; by default all projections
    are ``targets``."""

    rank: int = 0
    alpha: int = 0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)


@dataclass
class CheckOptions:
    """What is looked at on the way, every ``every`` steps (0: nothing): the loss on training rows held out, and the
    accuracy, by plain greedy generation, on calibration questions of ``tasks``."""

    every: int = 0
    held_out: int = 32
    tasks: list[str] = field(default_factory=list)
    questions: int = 24


@dataclass
class DataConfig:
    """Where the training questions come from: the menagerie, staged JSONL files, or both."""

    menagerie: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@dataclass
class ModelConfig:
    """Either ``pretrained``, or a ``transformers`` configuration to start from scratch.

    Attributes:
        pretrained: ``smollm2-135m``, a folder, a GGUF file, or a hub name.
        base: the name that a saved adapter gives for its base model, where that is not ``pretrained``.
    """

    pretrained: str | None = None
    base: str | None = None
    architecture: dict[str, Any] = field(default_factory=dict)
    vocab_size: int = 1024


@dataclass
class TrainingConfig:
    """Everything that determines a training run.

    Attributes:
        output: folder that receives the model, the tokenizer and this configuration.
        pipeline: the stages whose prompts and completions are trained.
        questions: how many questions make a step, each a tree of tokens that holds all its stages' prompts once.
        stage_share: with ``questions``: by stage, in what share of the questions it is trained (1 unless given; 0 is
            never).
        seen: with ``questions``: how often a prompt holds what a model might have written in an earlier stage, where
            the row has such texts, in place of the gold text.
        rows: instead of ``questions``: per stage, how many prompts make a step, each by itself.
        tokens: how many tokens go through the model at once (0: a whole step's); a step of more is done in parts.
        sublayer_dropout: with ``questions``: by stage, how often the last layer's sub-layers are left out of a tree,
            earlier ones less often (:mod:`litestage.training.dropout`); each stage of a question is a tree then.
        lora: train low-rank matrices beside the frozen weights, and save them as an adapter.
        check: what is looked at on the way.
        compile: compile the decoder layers, which takes a C++ compiler and about a minute, and is faster after it.
        token_weights: loss weights of some completion tokens.
        completion_weight: of all other completion tokens.
        earlier_weight: what the texts of earlier stages count where a later prompt repeats them; 0 trains on
            completions only.
        learning_rate: the highest; it rises linearly over ``warmup_steps``, then follows ``schedule``.
        schedule: ``linear`` holds it, and lets it fall to 0 over the last ``decay`` (a fraction) of the steps;
            ``cosine`` lets it fall to 0 along half a cosine (TinyThinker's); ``constant`` holds it.
        precision: Lightning's: ``32-true``, ``bf16-mixed`` (weights and optimiser in 32 bits; with LoRA the frozen
            weights in 16), or ``auto``: the latter where the device multiplies bfloat16 quickly.
        save_dtype: what the weights are rounded to when saved.
        save_every: optimiser steps between checkpoints; the same command goes on from the last (0: there are none).
        threads: CPU threads (0: torch's choice).
    """

    output: str = "???"
    pipeline: str = "recall_analyze_summarize"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    questions: int = 0
    stage_share: dict[str, float] = field(default_factory=dict)
    seen: float = 0.0
    rows: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    sublayer_dropout: dict[str, float] = field(default_factory=dict)
    lora: LoraOptions = field(default_factory=LoraOptions)
    check: CheckOptions = field(default_factory=CheckOptions)
    compile: bool = False
    token_weights: list[TokenWeight] = field(default_factory=list)
    completion_weight: float = 1.0
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


KNOWN = {
    "schedule": ("linear", "cosine", "constant"),
    "precision": ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed"),
    "save_dtype": ("float32", "bfloat16", "float16"),
    "accelerator": ("auto", "cpu", "cuda", "gpu", "mps", "tpu"),
}

BYTES = 258
"""Tokens that every vocabulary has: the 256 bytes, the end of a text and padding."""

GOES_BY = {
    "questions": (
        "goes by the stages of whole questions; give questions instead of rows",
        ("stage_share", "seen", "sublayer_dropout"),
    ),
    "lora.rank": (
        "is an adapter's, and lora.rank=0 trains all weights; give a rank",
        ("lora.alpha", "lora.dropout", "lora.targets", "model.base"),
    ),
    "model.architecture": ("is of a model from scratch; give model.architecture", ("model.vocab_size",)),
    "model.pretrained": ("adapts a model that is there; give model.pretrained", ("lora.rank",)),
}
"""By option, what would do nothing without it."""


def load_config(source: str, overrides: Sequence[str] = ()) -> TrainingConfig:
    """The configuration in ``source`` (a name in ``conf/train`` or a path to YAML), with ``key=value`` overrides.

    Raises:
        LiteStageError: no such file, a key the schema does not have, a value of the wrong type, or a missing one.
    """
    return _checked(configure(TrainingConfig, [named("train", source, "training configuration")], overrides))


def _checked(config: TrainingConfig) -> TrainingConfig:
    if not (config.data.menagerie or config.data.files):
        raise LiteStageError("The training data is empty; set data.menagerie=[menagerie] or data.files=[rows.jsonl].")
    if bool(config.model.pretrained) == bool(config.model.architecture):
        raise LiteStageError("Give one of model.pretrained (to fine-tune) and model.architecture (from scratch).")
    if config.steps < 1:
        raise LiteStageError(f"steps={config.steps} trains nothing; give at least 1.")
    if bool(config.questions) == bool(config.rows):
        raise LiteStageError("Give one of questions (so many to a step) and rows (so many prompts of each stage).")
    for name, number in _numbers("", asdict(config)):
        if number < 0 or not isfinite(number):
            raise LiteStageError(f"{name}={number} is no finite number from 0; give 0 or more.")
    for needed, (why, names) in GOES_BY.items():
        for name in names:
            if attrgetter(name)(config) != attrgetter(name)(TrainingConfig()) and not attrgetter(needed)(config):
                raise LiteStageError(f"{name} {why}, or leave {name} out.")
    shares = {"stage_share": config.stage_share, "sublayer_dropout": config.sublayer_dropout}
    named = [(f"{name}.{stage}", each) for name, stages in shares.items() for stage, each in stages.items()]
    for name, share in (("seen", config.seen), ("decay", config.decay), ("lora.dropout", config.lora.dropout), *named):
        if not 0 <= share <= 1:
            raise LiteStageError(f"{name}={share} is not a share; give a number from 0 to 1.")
    if config.check.tasks and not config.check.questions:
        raise LiteStageError("check.questions=0 asks none of check.tasks; give at least 1, or no tasks.")
    if config.check.every and not (config.check.held_out or config.check.tasks):
        raise LiteStageError("check.every looks at nothing; give check.held_out rows, or check.tasks.")
    if config.model.architecture and config.model.vocab_size < BYTES:
        raise LiteStageError(
            f"model.vocab_size={config.model.vocab_size} has no room for the bytes and two special tokens; give at "
            f"least {BYTES}."
        )
    if config.threads > (cores := os.cpu_count() or config.threads):
        raise LiteStageError(f"threads={config.threads} are more than the {cores} cores of this machine; give fewer.")
    if config.seed >= 2**32:
        raise LiteStageError(f"seed={config.seed} is none that NumPy takes; give one below 2**32.")
    if not config.learning_rate:
        raise LiteStageError(f"learning_rate={config.learning_rate} trains nothing; give a number above 0.")
    if not any((config.completion_weight, config.earlier_weight, *(each.weight for each in config.token_weights))):
        raise LiteStageError("completion_weight=0 trains nothing where no other weight is above 0; give 1.")
    for weight in config.token_weights:
        try:
            re.compile(weight.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise LiteStageError(
                f"token_weights has the pattern {weight.pattern!r}, which does not parse ({error}); mend it."
            ) from None
    for name, known in KNOWN.items():
        one_of(name, getattr(config, name), known)
    return config


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number of a configuration with its key, but for a model's architecture, which transformers reads."""
    if name == "model.architecture":
        return
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(f"{name}.{key}" if name else str(key), each)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value
