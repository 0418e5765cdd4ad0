"""What a comparison was made of, as digests kept in its results: those of other rows, methods or weights are others."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from litestage.config import ModelConfig, RunConfig
from litestage.data import Task
from litestage.decoder.source import source_of
from litestage.methods.own import is_file
from litestage.methods.shorthand import parted

_READ_WHOLE = (".json", ".jinja", ".txt", ".model")
"""Of a model's folder, the small files: configuration, what ends a text, tokenizer, chat template."""


def made_of(config: RunConfig, task: Task, model: str) -> dict[str, str]:
    """Digests of the questions asked, of the files named in ``methods`` and ``other_models``, and of the model's files.

    Args:
        task: drawn with the configuration's seed.
        model: as :func:`model_files` gave it before the model was loaded.
    """
    splits = task.questions("test")[: config.questions], task.questions("calibration")
    questions = [[(question.id, question.digest) for question in split] for split in splits]
    return {"questions": _digest(questions), "methods": _digest(_method_files(config)), "model": model}


def model_files(model: ModelConfig) -> str:
    """A digest of a local model's and adapter's files, weights by size and time; of a hub model's name and revision.

    Raises:
        LiteStageError: there is no such model.
    """
    source = source_of(model.pretrained, model.revision, model.adapter)
    folders = [folder for folder in (Path(source.place), source.adapter) if folder is not None and folder.is_dir()]
    files = [_file(file) for folder in folders for file in sorted(folder.iterdir())]
    return _digest([None if source.local else source.place, source.revision, [file for file in files if file]])


def _file(file: Path) -> tuple[Any, ...] | None:
    if file.suffix == ".safetensors":
        return file.name, file.stat().st_size, file.stat().st_mtime_ns
    return (file.name, _content(file)) if file.suffix in _READ_WHOLE else None


def _method_files(config: RunConfig) -> list[tuple[str, str | None]]:
    """Plan files, with the tensors beside them, own methods, and other models."""
    files: list[str] = []
    for body in (parted(spec)[0] for spec in config.methods):
        if body.endswith((".yaml", ".yml")):
            files += body, str(Path(body).with_suffix(".safetensors"))
        elif is_file(method := body.partition(":")[0]):
            files.append(method)
    others = [(name, model_files(ModelConfig(pretrained=each))) for name, each in sorted(config.other_models.items())]
    return [(file, _content(Path(file))) for file in files] + others


def _content(file: Path) -> str | None:
    """None of a file that is not there or cannot be read, which who needs it will say."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
