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
from functools import cache, cached_property
from logging import getLogger
from pathlib import Path
from typing import Any, TypedDict

from litestage.conf import beside, named
from litestage.data.sources import Files, Source, source_of
from litestage.errors import LiteStageError, all_known, did_you_mean
from litestage.reading import given_mapping, read_yaml, whole
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
            LiteStageError: no such split, data that cannot be reached, a malformed row, or no rows at all.
        """
        all_known(f"The task {self.name!r} has no split", [split], self.splits)
        rows = list(self._questions(self.splits[split]))
        if not rows:
            raise LiteStageError(
                f"The split {split!r} of the task {self.name!r} has no question left; give its source more rows, or "
                "let the split that it is without take fewer."
            )
        if split == "calibration" and isinstance(self.source, Files):  # the published tasks' splits are apart
            both = {(question.text, question.options) for question in rows}
            both &= {(question.text, question.options) for question in self._questions(self.splits["test"])}
            if both:
                _say(
                    f"{len(both)} of the {len(rows)} calibration questions of the task {self.name!r} are test "
                    "questions too: what is searched on them is tried on what it has seen; give other rows."
                )
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
            if split.draw > len(rows):
                _say(
                    f"A split of the task {self.name!r} draws {split.draw} rows of {split.of!r}, which has "
                    f"{len(rows)}: it takes all; give more rows, or draw fewer."
                )
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


@cache
def _say(warning: str) -> None:
    """Once in a process."""
    getLogger(__name__).warning(warning)


def load_task(name_or_path: str | Path) -> Task:
    """A shipped task by name (``obqa``) or one's own from a YAML file. Its data is read when it is asked for.

    Raises:
        LiteStageError: no such task, malformed YAML, or a key that is not known.
    """
    path = named("task", str(name_or_path), hint=" A path to a YAML file works too.")
    raw = given_mapping(read_yaml(path, _File), path)
    try:
        return _task(path, dict(raw))
    except LiteStageError as error:
        raise LiteStageError(f"{path.name}: {error}") from None


class _File(TypedDict):
    """What of a task is text or a number, as :func:`litestage.reading.parse_yaml` is told."""

    name: str
    description: str
    pipeline: str
    menagerie: str
    rows: dict[str, str]
    hub: dict[str, str | None]
    splits: dict[str, str | Split]
    max_new_tokens: dict[str, int]


def _task(path: Path, raw: dict[str, Any]) -> Task:
    source = source_of(raw, path.parent)
    splits = raw.pop("splits", None) or {name: name for name in source.names}
    known = ("name", "pipeline", "max_new_tokens", "description")
    for key in raw:
        if key not in known:
            everything = (*known, "splits", "rows", "hub", "menagerie")
            raise LiteStageError(f"the key {key!r} is not known; {did_you_mean(str(key), everything)}")
    for key, kind, what in (
        ("name", str, "a text"),
        ("description", str, "a text"),
        ("pipeline", str, "a name or a file"),
        ("max_new_tokens", Mapping, "a number for some stages"),
    ):
        if raw.get(key) is not None and not isinstance(raw[key], kind):
            raise LiteStageError(f"{key} is {raw[key]!r:.80}; it is {what}.")
    if not isinstance(splits, Mapping):
        raise LiteStageError(f"splits is {splits!r:.80}; it names what each split is of.")
    for name in splits:
        if name not in SPLITS:
            raise LiteStageError(f"the split {name!r} is not known; {did_you_mean(name, SPLITS)}")
    for name in ("calibration", "test"):
        if name not in splits:
            raise LiteStageError(f"there is no split {name!r}; a task needs calibration and test rows.")
    return Task(
        name=raw.get("name") or path.stem,
        pipeline=beside(path.parent, raw.get("pipeline") or FEWSHOT),
        source=source,
        splits=_splits(splits, source),
        max_new_tokens={
            stage: whole(count, f"max_new_tokens of stage {stage!r}", least=1)
            for stage, count in (raw.get("max_new_tokens") or {}).items()
        },
        description=raw.get("description") or "",
    )


def _splits(raw: Mapping[str, Any], source: Source) -> dict[str, Split]:
    """The splits, each of rows that there are, and none without itself."""
    splits: dict[str, Split] = {}
    for name, of in raw.items():
        given = {"of": of} if isinstance(of, str) else of
        if not isinstance(given, Mapping) or not isinstance(given.get("of"), str):
            raise LiteStageError(f"the split {name!r} is {of!r:.80}; it is a name, or {{of: NAME, draw: 500}}.")
        for key in given:
            if key not in ("of", "draw", "without"):
                raise LiteStageError(f"the split {name!r} has the unknown key {key!r}; it has of, draw and without.")
        if given["of"] not in source.names:
            raise LiteStageError(f"the split {name!r} is of {given['of']!r}; {did_you_mean(given['of'], source.names)}")
        draw, without = given.get("draw"), given.get("without")
        splits[name] = Split(
            given["of"], None if draw is None else whole(draw, f"draw of the split {name!r}", least=1), without
        )
    for name, split in splits.items():
        other = splits.get(split.without) if isinstance(split.without, str) else None
        if split.without is not None and (other is None or other.without is not None):
            raise LiteStageError(
                f"the split {name!r} is without {split.without!r}; name another split, one that is whole or drawn."
            )
    return splits
