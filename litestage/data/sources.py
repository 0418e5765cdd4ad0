"""Where a task's rows are: JSONL files, the Hugging Face hub (or a folder laid out like it), or the menagerie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from litestage import menagerie
from litestage.data.rows import FORMATS, Row, read_jsonl, to_questions
from litestage.errors import LiteStageError, known_keys, one_of
from litestage.hub import hub
from litestage.stages import Question

_NEEDED, _OPTIONAL = ("path", "folder", "format"), ("config", "revision")
_COMMIT = re.compile(r"[0-9a-f]{40}")
DATA = "LITESTAGE_DATA"
"""Environment variable: a folder with ``openbookqa``, ``commonsense_qa`` and ``strategyqa``, ``<split>.jsonl`` each."""


class Source(Protocol):
    """Something that gives questions by the name of a file or hub split."""

    @property
    def names(self) -> Iterable[str]: ...

    @property
    def origin(self) -> Mapping[str, Any]:
        """Where the rows that were read came from, for results.json."""
        ...

    def questions(self, name: str) -> list[Question]: ...


@dataclass(frozen=True)
class Files:
    """A user's own JSONL files, by split."""

    paths: Mapping[str, Path]

    @property
    def names(self) -> Iterable[str]:
        return self.paths

    @property
    def origin(self) -> Mapping[str, Any]:
        return {"rows": {split: path.name for split, path in self.paths.items()}}

    def questions(self, name: str) -> list[Question]:
        path = self.paths[name]
        return to_questions(read_jsonl(path), "questions", str(path), prefix=path.stem)


@dataclass(frozen=True)
class Hub:
    """A hub data set in one of the known formats; ``$LITESTAGE_DATA/<folder>/<split>.jsonl`` when that is set.

    ``revision`` is a branch, tag or commit; the hub's newest unless given. All splits are read at one commit.
    """

    path: str
    format: str
    folder: str
    config: str | None = None
    revision: str | None = None
    names: ClassVar = ("train", "validation", "test")
    _commits: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def origin(self) -> Mapping[str, Any]:
        """With the commit that was read; None where the rows came from the folder that `DATA` names."""
        return {"hub": self.path, "config": self.config, "revision": next(iter(self._commits.values()), None)}

    def questions(self, name: str) -> list[Question]:
        where = str(self.file(name)) if os.environ.get(DATA) else f"{self.path} ({name})"
        return to_questions(self.rows(name), self.format, where, prefix=name)

    def rows(self, name: str) -> list[tuple[int, Row]]:
        """A split's rows as they are published, numbered from 1. Raises LiteStageError when they cannot be reached."""
        if not os.environ.get(DATA):
            return self._from_hub(name)
        if not os.path.isfile(path := self.file(name)):
            raise LiteStageError(
                f"{DATA} is {os.environ[DATA]!r}, but there is no {self.folder}/{name}.jsonl in it; correct it, or "
                "unset it to use the hub."
            )
        return read_jsonl(path)

    def file(self, name: str) -> Path:
        """Where a split's rows are in the folder that `DATA` names."""
        return Path(os.environ[DATA]).expanduser() / self.folder / f"{name}.jsonl"

    def _from_hub(self, split: str) -> list[tuple[int, Row]]:
        import datasets

        wanted = next(iter(self._commits.values()), self.revision)
        at = f" at {wanted!r}" if wanted else ""
        try:
            with hub():
                builder = datasets.load_dataset_builder(self.path, self.config, revision=wanted)
                builder.download_and_prepare()
            rows = list(enumerate(builder.as_dataset(split=split), start=1))
        except Exception as error:  # datasets, huggingface_hub, requests and httpx each raise their own
            raise LiteStageError(
                f"The data set {self.path!r}{at} could not be fetched from the hub ({type(error).__name__}); "
                f"check the network, or set {DATA} to a folder that holds {self.folder}/{split}.jsonl."
            ) from None
        if wanted and _COMMIT.fullmatch(wanted) and builder.hash != wanted:  # datasets falls back on what it has kept
            raise LiteStageError(
                f"The data set {self.path!r} was wanted{at}, but only {builder.hash} can be reached; check the network."
            )
        self._commits[split] = str(builder.hash)
        return rows


@dataclass(frozen=True)
class Menagerie:
    """The embedded synthetic world; needs no files."""

    variant: str
    names: ClassVar = ("calibration", "test", "train")

    @property
    def origin(self) -> Mapping[str, Any]:
        return {"menagerie": self.variant}

    def questions(self, name: str) -> list[Question]:
        return [row.question for row in menagerie.load_split(self.variant, name)]

    def fresh(self, count: int) -> list[Question]:
        """Questions that no split has. Raises LiteStageError where there are not so many."""
        return menagerie.fresh(self.variant, count)


def source_of(raw: dict[str, Any], here: Path) -> Source:
    """Takes the one key that says where the rows are (``rows``, ``hub`` or ``menagerie``) out of a task's YAML."""
    named = [key for key in ("rows", "hub", "menagerie") if key in raw]
    if len(named) != 1:
        raise LiteStageError(f"it has {' and '.join(named) or 'no rows'}; give exactly one of rows, hub, menagerie.")
    value = raw.pop(named[0])
    if named[0] == "menagerie":
        one_of("menagerie", value, menagerie.VARIANTS)
        return Menagerie(value)
    if not isinstance(value, Mapping):
        holds = "a file for each split" if named[0] == "rows" else "path, folder and format"
        raise LiteStageError(f"{named[0]} is {value!r}; it holds {holds}.")
    for key, text in value.items():
        if not isinstance(text, str) and not (text is None and key in _OPTIONAL):
            raise LiteStageError(f"{key!r} of {named[0]} is {text!r:.80}; it is a text.")
    if named[0] == "rows":
        return Files({str(split): here / path for split, path in value.items()})
    known_keys("hub", value, (*_NEEDED, *_OPTIONAL))
    for key in _NEEDED:
        if key not in value:
            raise LiteStageError(f"hub has no {key!r}; it holds path, folder and format.")
    source = Hub(**value)
    one_of("the format", source.format, FORMATS)
    return source
