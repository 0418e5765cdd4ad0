"""What can be told of a model's files before they are loaded: pointers, pickles, truncated and absent ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from litestage.errors import LiteStageError

POINTER = b"version https://git-lfs"
"""What a file begins with that git-LFS has not fetched."""

_JSON = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")


def check_folder(folder: Path, name: str) -> None:
    """What can be told of a model's folder before it is loaded. Raises LiteStageError for what is wrong with it."""
    if not (folder / "config.json").is_file():
        raise LiteStageError(
            f"The folder {name!r} does not hold a usable causal LM (it has no config.json); "
            "it needs config.json, safetensors and a tokenizer."
        )
    for file in map(folder.joinpath, _JSON):
        if file.is_file():
            json_object(file)
    for file in folder.glob("tokenizer*"):
        _refuse_pointer(file)
    weights = sorted(folder.glob("model*.safetensors"))
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    if not weights and pickles:
        raise LiteStageError(
            f"The folder {name!r} holds its weights as pickle ({pickles[0]}), which can run code when it is read; "
            "save them as safetensors."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        places = json_object(index).get("weight_map")
        if not isinstance(places, dict) or not all(isinstance(file, str) for file in places.values()):
            raise LiteStageError(f"{index} does not say by tensor in which file it is (weight_map); fetch it again.")
        needed = set(places.values())
        if absent := needed - {path.name for path in weights}:
            raise LiteStageError(f"The folder {name!r} lacks {listed(absent)}, which its index names; fetch it again.")
    for path in weights:
        check_weights(path)


def check_weights(path: Path) -> None:
    """Raises LiteStageError where a safetensors file is a pointer, truncated or none, or its weights are whole numbers,
    which mean nothing without what they were divided by."""
    from safetensors import SafetensorError, safe_open

    _refuse_pointer(path)
    try:
        with safe_open(path, "pt") as opened:
            kinds = {name: opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LiteStageError(
            f"{path} is damaged or truncated ({first_line(error)}); fetch the file again, or save it again."
        ) from None
    whole = {name for name, kind in kinds.items() if kind[:1] in "IU" and name.endswith((".weight", ".bias"))}
    if whole:
        raise LiteStageError(
            f"{path} is quantised: it holds weights in whole numbers ({kinds[min(whole)]}: {listed(whole)}); give the "
            "model it was made from."
        )


def shapes(path: Path) -> dict[str, list[int]]:
    """The shape of every tensor in a safetensors file, by its name, from the header alone."""
    from safetensors import safe_open

    with safe_open(path, "pt") as opened:
        return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118


def json_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises LiteStageError where it does not."""
    _refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"{type(content).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise LiteStageError(f"{path} is not a JSON object ({first_line(error)}); correct or fetch it again.") from None
    return content


def _refuse_pointer(path: Path) -> None:
    if path.is_fifo():
        raise LiteStageError(f"{path} is a pipe, not a file; put the file itself there.")  # opening it would wait
    try:
        with path.open("rb") as opened:
            pointer = opened.read(len(POINTER)) == POINTER
    except OSError as error:
        raise LiteStageError(f"{path} cannot be read ({first_line(error)}); check it.") from None
    if pointer:
        raise LiteStageError(f"{path} is a git-LFS pointer, not the file itself; run git lfs pull.")


def first_line(error: object) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return said.rstrip(".")


def listed(names: Iterable[str]) -> str:
    """A few of the names, and how many more there are."""
    first = sorted(names)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")
