"""A task: its questions by split, its default pipeline and its limits. Described by a YAML file in ``conf/task``.

Splits are ``calibration`` (profiling and search), ``test`` (reported once) and, where there is one, ``train``. A split
is a file or hub split, whole, or part of one::

    calibration: {of: train, draw: 500}     # 500 of its rows, always the same ones
    train: {of: train, without: calibration}

No row of any split is ever shown to a model as an example: few-shot exemplars are written for this project and are
part of the pipeline (``conf/pipeline``). So calibration and test rows cannot leak through a prompt.

One's own task is a YAML file with ``rows: {calibration: mine.jsonl, test: other.jsonl}`` (paths relative to it) and
one JSON object a line: ``{"question": ..., "options": [...], "answer": "B"}``, with an ``id`` if you like.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from litestage.conf import available, find
from litestage.data.sources import Source, source_of
from litestage.errors import LiteStageError, did_you_mean
from litestage.stages import Pipeline, Question, load_pipeline

SPLITS = ("calibration", "test", "train")
FEWSHOT = "recall_analyze_summarize_fewshot"
"""The pipeline of tasks that name none: for models that were not tuned on the stages."""
IN_CHAT = {FEWSHOT: "recall_analyze_summarize_chat"}
"""What takes a task's own pipeline's place where prompts go through a chat template."""
SEED = 20240
"""Draws the rows of a split that is part of another."""


@dataclass(frozen=True)
class Split:
    """Rows of ``of``: all of them, ``draw`` of them, or those that the split ``without`` did not take."""

    of: str
    draw: int | None = None
    without: str | None = None


@dataclass(frozen=True)
class Task:
    """Questions by split, with the pipeline they go through unless told otherwise.

    Attributes:
        name: short name, as in ``task=obqa``.
        pipeline: name of the default pipeline.
        max_new_tokens: limits by stage name where the pipeline's own do not fit; may be empty.
        splits: the splits there are.
        seed: of the order of the calibration questions, of which the first few are used; 0 leaves the source's order.
    """

    name: str
    pipeline: str
    source: Source = field(repr=False)
    splits: Mapping[str, Split]
    max_new_tokens: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    seed: int = 0

    def questions(self, split: str) -> list[Question]:
        """The questions of a split, always in the same order.

        Raises:
            LiteStageError: no such split, data that cannot be reached, or a malformed row.
        """
        if split not in self.splits:
            raise LiteStageError(f"The task {self.name!r} has no split {split!r}; {did_you_mean(split, self.splits)}")
        rows = list(self._questions(self.splits[split]))
        if split == "calibration" and self.seed:
            random.Random(self.seed).shuffle(rows)
        return rows

    def through(self, pipeline: str | None = None, mode: str | None = None, chat: bool = False) -> Pipeline:
        """The pipeline its questions go through: its own with its own limits, or another as that one is.

        Args:
            pipeline: name or file of another pipeline.
            mode: how stages that fan out over the options run, instead of the pipeline's choice.
            chat: whether prompts go through a chat template: the few-shot pipeline is then one of turns (`IN_CHAT`).
        """
        own = IN_CHAT.get(self.pipeline, self.pipeline) if chat else self.pipeline
        chosen = load_pipeline(pipeline or own)
        if pipeline in (None, own, self.pipeline):
            chosen = chosen.with_limits(self.max_new_tokens)
        return chosen.with_mode(mode) if mode else chosen

    def _questions(self, split: Split) -> list[Question]:
        rows = self._rows(split.of)
        if split.without:
            taken = {question.id for question in self._questions(self.splits[split.without])}
            rows = [question for question in rows if question.id not in taken]
        if split.draw:
            by_id = sorted(rows, key=lambda question: question.id)  # the same draw whatever order the rows come in
            drawn = {question.id for question in random.Random(SEED).sample(by_id, min(split.draw, len(by_id)))}
            rows = [question for question in rows if question.id in drawn]
        return rows

    def _rows(self, name: str) -> list[Question]:
        if name not in self._read:
            self._read[name] = self.source.questions(name)
        return self._read[name]

    @cached_property
    def _read(self) -> dict[str, list[Question]]:
        return {}


def load_task(name_or_path: str | Path) -> Task:
    """A shipped task by name (``obqa``) or one's own from a YAML file. Its data is read when it is asked for.

    Raises:
        LiteStageError: no such task, malformed YAML, or a key that is not known.
    """
    path = find("task", str(name_or_path))
    if path is None:
        raise LiteStageError(
            f"There is no task {str(name_or_path)!r}; {did_you_mean(str(name_or_path), available('task'))} "
            "A path to a YAML file works too."
        )
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        return _task(path, dict(raw))
    except LiteStageError as error:
        raise LiteStageError(f"{path.name}: {error}") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:
        reason = str(error).replace("\n", " ")
        raise LiteStageError(f"{path} is not a task ({reason}); see conf/task/ for examples.") from None


def _task(path: Path, raw: dict[str, Any]) -> Task:
    source = source_of(raw, path.parent)
    splits = raw.pop("splits", None) or {name: name for name in source.names}
    known = ("name", "pipeline", "max_new_tokens", "description")
    for key in raw:
        if key not in known:
            everything = (*known, "splits", "rows", "hub", "menagerie")
            raise LiteStageError(f"the key {key!r} is not known; {did_you_mean(str(key), everything)}")
    for name in splits:
        if name not in SPLITS:
            raise LiteStageError(f"the split {name!r} is not known; {did_you_mean(name, SPLITS)}")
    for name in ("calibration", "test"):
        if name not in splits:
            raise LiteStageError(f"there is no split {name!r}; a task needs calibration and test rows.")
    return Task(
        name=raw.get("name", path.stem),
        pipeline=_pipeline(path, raw.get("pipeline", FEWSHOT)),
        source=source,
        splits={name: Split(of) if isinstance(of, str) else Split(**of) for name, of in splits.items()},
        max_new_tokens=raw.get("max_new_tokens") or {},
        description=raw.get("description", ""),
    )


def _pipeline(task: Path, name: str) -> str:
    """A pipeline's name, or its file: one beside the task's own YAML comes first, as its rows do."""
    beside = task.parent / str(name)
    return str(beside) if beside.suffix in (".yaml", ".yml") and beside.is_file() else name
