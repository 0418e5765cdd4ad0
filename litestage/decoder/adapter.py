"""PEFT adapters: found, and merged into a model in float32."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from litestage.decoder.files import check_weights, first_line, json_object, listed
from litestage.errors import LiteStageError
from litestage.hub import hub

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_RUNS_OR_READS_MORE = ("megatron_config", "auto_mapping")
"""Settings by which an adapter would have PEFT import modules of its choice."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter. Raises LiteStageError where it holds a whole model as well."""
    if not (folder / CONFIG).is_file():
        return False
    if any(folder.glob("model*.safetensors")):
        raise LiteStageError(
            f"The folder {str(folder)!r} holds a whole model and an adapter; move one of them, or its {CONFIG}, away."
        )
    return True


def adapter_folder(name: str) -> Path:
    """The folder of an adapter: ``name`` itself, or where the hub's files of that name are kept.

    Raises:
        LiteStageError: there is none.
    """
    folder = Path(os.path.expanduser(name))
    if os.path.isdir(folder):
        if not is_adapter(folder):
            raise LiteStageError(f"The folder {name!r} is not an adapter; it has no {CONFIG}.")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise LiteStageError(f"There is no adapter folder {name!r}; check the path.")
    from huggingface_hub import snapshot_download

    try:
        with hub():
            found = Path(snapshot_download(name, allow_patterns=["adapter_*", "*token*", "*.jinja"]))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise LiteStageError(
            f"The adapter {name!r} is neither a folder here nor could it be fetched from the hub ({first_line(error)})."
        ) from None
    if not (found / CONFIG).is_file():
        raise LiteStageError(f"{name!r} on the hub is not an adapter; it has no {CONFIG}.")
    return found


def base_of(folder: Path) -> str:
    """The model that an adapter is for: a path that is there, from the adapter's folder or the current one, or a name.

    Raises:
        LiteStageError: it names none.
    """
    base = json_object(folder / CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise LiteStageError(
            f"The adapter {str(folder)!r} does not say what it adapts (base_model_name_or_path in {CONFIG}); "
            "give its base as pretrained and the folder as adapter."
        )
    beside = folder / base
    return str(beside) if os.path.isdir(beside) else base


def merged(model: Any, folder: Path) -> Any:
    """``model``, which is in float32, with an adapter added to its weights.

    Raises:
        LiteStageError: weights that are not safetensors, that do not fit the model, or are not all there.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    config = json_object(folder / CONFIG)
    if used := ", ".join(key for key in _RUNS_OR_READS_MORE if config.get(key)):
        raise LiteStageError(f"The adapter {str(folder)!r} asks for modules to be imported ({used}); remove that.")
    if not (folder / WEIGHTS).is_file():
        raise LiteStageError(f"The adapter {str(folder)!r} has no {WEIGHTS}; save it as safetensors.")
    check_weights(folder / WEIGHTS)
    with safe_open(folder / WEIGHTS, "pt") as opened:
        given = set(opened.keys())
    whole = {f"base_model.model.{name}" for name in model.state_dict()}  # an adapter may bring whole weights too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is looked at here
            settings = PeftConfig.from_pretrained(str(folder))
            if unread := {key for key, value in config.items() if value and key not in settings.to_dict()}:
                raise ValueError(f"its settings {listed(unread)} are none that this PEFT knows")
            adapted: Any = PeftModel.from_pretrained(model, str(folder), config=settings)
            wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
            left = {name for name in given - wanted if name.replace(".base_layer.", ".") not in whole}
            for what, names in (("lacks", wanted - given), ("holds what it has no place for:", left)):
                if names:
                    raise ValueError(f"it {what} {listed(names)}")
            if not hasattr(adapted.base_model, "merge_and_unload"):
                raise LiteStageError(
                    f"The adapter {str(folder)!r} is of the kind {settings.peft_type.value}, which changes no weights "
                    "and cannot be merged; give one that does, as LoRA."
                )
            _untie(adapted)
            return adapted.merge_and_unload(safe_merge=True)
    except LiteStageError:
        raise
    except Exception as error:  # PEFT and the classes it wraps raise anything
        raise LiteStageError(
            f"The adapter {str(folder)!r} does not fit the model ({first_line(error)}); give the base it was made for."
        ) from error


def _untie(model: Any) -> None:
    """Gives every module that is adapted weights of its own: what is merged into an embedding, or into a layer that is
    there twice, would change the head or the layer that shares its weight, and the adapter does not."""
    weights = [weight for module in model.modules() if (weight := module._parameters.get("weight")) is not None]
    shared = {number for number, modules in Counter(map(id, weights)).items() if modules > 1}
    for module in model.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, nn.Module) and id(base._parameters.get("weight")) in shared:
            base.weight = nn.Parameter(base.get_parameter("weight").detach().clone(), requires_grad=False)
