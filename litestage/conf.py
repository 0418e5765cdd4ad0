"""Where the YAML files of ``conf/`` and ``tasks/`` are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

import os
from pathlib import Path

from litestage.errors import LiteStageError, did_you_mean

_PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder ``conf`` or ``tasks``: in the package if it was installed there, else at the checkout's root.

    The order matters: in an installed package the root would be ``site-packages``.
    """
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / name


def available(group: str) -> list[str]:
    """Names in a group of ``conf/``, which is a folder there: ``model``, ``task``, ..."""
    return sorted(path.stem for path in (folder("conf") / group).glob("*.yaml"))


def find(group: str, name: str) -> Path | None:
    """The YAML file called ``name`` in a group, or the file at the path ``name``, or None."""
    shipped = folder("conf") / group / f"{name}.yaml"
    if os.path.isfile(shipped):
        return shipped
    path = Path(name)
    return path if path.suffix in (".yaml", ".yml") and os.path.exists(path) else None


def named(group: str, name: str, what: str = "", hint: str = "") -> Path:
    """The same; raises LiteStageError, with the nearest name, where there is none."""
    path = find(group, name)
    if path is None:
        raise LiteStageError(f"There is no {what or group} {name!r}; {did_you_mean(name, available(group))}{hint}")
    return path


def beside(here: Path, name: str) -> str:
    """The YAML file ``name`` in the folder ``here`` if there is one, else ``name``, which may be a shipped one's."""
    path = here / name
    return str(path) if path.suffix in (".yaml", ".yml") and os.path.isfile(path) else name
