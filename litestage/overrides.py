"""``key=value`` overrides over YAML over a dataclass schema; a wrong key or value gets one clear sentence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from litestage.conf import named
from litestage.errors import LiteStageError, did_you_mean
from litestage.reading import given_mapping, inside_of, is_text, kinds_of, parse_yaml, read_yaml

Schema = TypeVar("Schema")

_KEY = re.compile(r"[^.\[\]]+(\.[^.\[\]]+|\[[^.\[\]]+\])*")
"""A dotted key, elements of lists in brackets; what else OmegaConf would take for one, it may fail on."""
_FILE = re.compile(r"(?P<file>.+?\.(?:yaml|yml|py|jsonl))(?P<rest>[:+].*)?")


def configure(
    schema: type[Schema],
    layers: Sequence[Mapping[str, Any] | Path],
    overrides: Sequence[str],
    groups: Sequence[str] = (),
) -> Schema:
    """An instance of the dataclass ``schema``: its defaults, then ``layers``, then the overrides.

    Where the schema says text, what was written is what arrives. A mapping that is given takes the place of the one
    before, where the schema does not name its keys; ``rows.summarize=16`` changes one of them.

    Args:
        layers: mappings or YAML files. A file that one of these names is looked for beside it first.
        overrides: ``key=value``; for a name in ``groups``, ``model=qwen2.5-0.5b`` merges
            ``conf/model/qwen2.5-0.5b.yaml`` into ``model`` before the dotted overrides.

    Raises:
        LiteStageError: a file that is not a YAML mapping, an override that is not ``key=value``, an unknown key (names
            the nearest), a value of the wrong type, a missing value, or a group file that does not exist.
    """
    chosen, dotted = _split(schema, overrides, groups)
    given = [at_home(_read(layer, schema)) if isinstance(layer, Path) else layer for layer in layers]
    at = ""
    try:
        merged = OmegaConf.structured(schema)
        for layer in (*given, *chosen):
            at = ""
            merged = OmegaConf.merge(merged, OmegaConf.create(dict(layer)))
            for at, mapping in _mappings(schema, layer):
                OmegaConf.update(merged, at, mapping, merge=False)
        for at, value in dotted:
            if _is_mapping(_expected(schema, at)) and not isinstance(value, Mapping | None):
                raise LiteStageError(f"The option {at!r} is {value!r}, and has keys of its own; give {at}.KEY={value}.")
            OmegaConf.update(merged, at, at_home(value), merge=not _is_mapping(_expected(schema, at)))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = _as_written(str(error.full_key or error.key), [key for key, _ in dotted])
        raise LiteStageError(f"There is no option {key!r}; {did_you_mean(key, option_names(schema))}") from None
    except MissingMandatoryValue as error:
        raise LiteStageError(f"The option {error.full_key!r} has no value; give {error.full_key}=....") from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        key = str(error.full_key or "")
        named = key if key.startswith(at.partition(".")[0]) else f"{at}.{key}"
        raise LiteStageError(f"The option {named!r} does not fit: {reason}; correct it.") from None


def at_home(value: Any) -> Any:
    """The value with every path in it that begins with ``~/`` in the user's home, as no shell reads it behind ``=``."""
    if isinstance(value, Mapping):
        return {key: at_home(each) for key, each in value.items()}
    if isinstance(value, list):
        return [at_home(each) for each in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def _read(path: Path, schema: type) -> Mapping[str, Any]:
    content = given_mapping(read_yaml(path, schema), path)
    written = ("output", "store")  # made by the command, so where it runs
    return {key: value if key in written else _beside(path.parent, value) for key, value in content.items()}


def _beside(folder: Path, value: Any) -> Any:
    """The value with every file or model folder in it that lies in ``folder`` named from here."""
    if isinstance(value, Mapping):
        return {key: _beside(folder, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_beside(folder, each) for each in value]
    if not isinstance(value, str):
        return value
    match = _FILE.fullmatch(value)
    if match and os.path.isfile(folder / match["file"]):
        return f"{folder / match['file']}{match['rest'] or ''}"
    return str(folder / value) if value and os.path.isfile(folder / value / "config.json") else value


def _mappings(schema: Any, layer: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every mapping in ``layer`` whose keys the schema does not name."""
    for key, expected in get_type_hints(schema).items():
        if not isinstance(layer.get(key), Mapping):
            continue
        if _is_mapping(expected):
            yield f"{prefix}{key}", layer[key]
        elif is_dataclass(expected):
            yield from _mappings(expected, layer[key], f"{prefix}{key}.")


def _is_mapping(expected: Any) -> bool:
    return any(get_origin(kind) is dict for kind in kinds_of(expected))


def _expected(schema: Any, key: str) -> Any:
    """The type that the schema has for a dotted key; anything where it has none."""
    for part in key.split("."):
        schema = inside_of(schema, part)
    return schema


def _value(written: str, expected: Any, override: str) -> Any:
    """The value of an override: a text as it was typed, quotes around it apart; else YAML."""
    text = str in kinds_of(expected)
    nothing = type(None) in kinds_of(expected) and written.strip() in ("", "~", "null", "Null", "NULL")
    if text and not nothing and written[:1] not in ("'", '"'):
        return written
    try:
        return parse_yaml(written, expected)
    except ValueError as error:
        if text:
            return written
        raise LiteStageError(f"The override {override!r} does not read ({error}); correct its value.") from None


def _as_written(key: str, dotted: Sequence[str]) -> str:
    """The whole key of the override that ``key``, where the merge failed, is the beginning of."""
    return next((whole for whole in dotted if whole == key or whole.startswith(f"{key}.")), key)


def _split(
    schema: type, overrides: Sequence[str], groups: Sequence[str]
) -> tuple[list[Mapping[str, Any]], list[tuple[str, Any]]]:
    chosen: list[Mapping[str, Any]] = []
    dotted: list[tuple[str, Any]] = []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not _KEY.fullmatch(key) or not equals:
            raise LiteStageError(f"The override {override!r} is not key=value; write for example task=menagerie.")
        if not is_text(override):
            raise LiteStageError(f"The override {override!r} holds bytes that are not UTF-8; type it again.")
        if key not in groups:
            dotted.append((key, _value(value, _expected(schema, key), override)))
            continue
        path = named(key, value, hint=" A folder or hub name goes in model.pretrained=..." if key == "model" else "")
        content = read_yaml(path, inside_of(schema, key))
        chosen.append({key: given_mapping(content, path)})
    return chosen, dotted


def option_names(schema: Any, prefix: str = "") -> Iterator[str]:
    """All dotted keys of a schema."""
    for key, expected in get_type_hints(schema).items():
        yield f"{prefix}{key}"
        if is_dataclass(expected):
            yield from option_names(expected, f"{prefix}{key}.")
