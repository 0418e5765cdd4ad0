"""``key=value`` overrides over YAML over a dataclass schema; a wrong key or value gets one clear sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from litestage.conf import available, find
from litestage.errors import LiteStageError, did_you_mean

Schema = TypeVar("Schema")


def configure(
    schema: type[Schema],
    layers: Sequence[Mapping[str, Any] | Path],
    overrides: Sequence[str],
    groups: Sequence[str] = (),
) -> Schema:
    """An instance of the dataclass ``schema``: its defaults, then ``layers``, then the overrides.

    Args:
        layers: mappings or YAML files.
        overrides: ``key=value``; for a name in ``groups``, ``model=qwen2.5-0.5b`` merges
            ``conf/model/qwen2.5-0.5b.yaml`` into ``model`` before the dotted overrides.

    Raises:
        LiteStageError: an override that is not ``key=value``, an unknown key (names the nearest), a value of the wrong
            type, a missing value, or a group file that does not exist.
    """
    base = OmegaConf.structured(schema)
    chosen, dotted = _split(overrides, groups)
    try:
        loaded = [
            OmegaConf.load(layer) if isinstance(layer, Path) else OmegaConf.create(dict(layer)) for layer in layers
        ]
        merged = OmegaConf.merge(base, *loaded, *chosen, OmegaConf.from_dotlist(dotted))
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except ConfigKeyError as error:
        key = _as_written(str(error.full_key or error.key), dotted)
        raise LiteStageError(f"There is no option {key!r}; {did_you_mean(key, _keys(base))}") from None
    except MissingMandatoryValue as error:
        raise LiteStageError(f"The option {error.full_key!r} has no value; give {error.full_key}=....") from None
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise LiteStageError(f"The option {str(error.full_key)!r} does not fit: {reason}; correct it.") from None


def _as_written(key: str, dotted: Sequence[str]) -> str:
    """The whole key of the override that ``key``, where the merge failed, is the beginning of."""
    written = (override.partition("=")[0] for override in dotted)
    return next((whole for whole in written if whole == key or whole.startswith(f"{key}.")), key)


def _split(overrides: Sequence[str], groups: Sequence[str]) -> tuple[list[DictConfig], list[str]]:
    chosen, dotted = [], []
    for override in overrides:
        key, equals, value = override.partition("=")
        if not key or not equals:
            raise LiteStageError(f"The override {override!r} is not key=value; write for example task=menagerie.")
        if key not in groups:
            dotted.append(override)
            continue
        path = find(key, value)
        if path is None:
            hint = " A folder or hub name goes in model.pretrained=..." if key == "model" else ""
            raise LiteStageError(f"There is no {key} {value!r}; {did_you_mean(value, available(key))}{hint}")
        chosen.append(OmegaConf.create({key: OmegaConf.load(path)}))
    return chosen, dotted


def _keys(node: Any, prefix: str = "") -> list[str]:
    """All dotted keys of a schema."""
    keys: list[str] = []
    for key in node:
        keys.append(f"{prefix}{key}")
        child = node._get_node(key)
        if OmegaConf.is_dict(child) and not OmegaConf.is_missing(node, key) and child._content is not None:
            keys += _keys(child, f"{prefix}{key}.")
    return keys
