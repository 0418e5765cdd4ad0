"""Loading a causal LM from a folder or the hub: safetensors only, no remote code, one clear error when it fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from litestage.decoder.families import family_of
from litestage.errors import LiteStageError, did_you_mean

REFERENCE_MODELS = {"reference": "full", "reference-half": "half"}
"""Names of the embedded models and their folders under ``litestage/reference``."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and what identifies it."""

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    fingerprint: str


def load_model(
    name: str = "reference", *, revision: str | None = None, dtype: str = "auto", device: str = "auto"
) -> LoadedModel:
    """Loads a causal LM and its tokenizer.

    Args:
        name: ``reference`` or ``reference-half`` (inside the package), a folder, or a hub name.
        revision: hub branch, tag or commit.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float32 on a CPU and for the embedded models, the
            checkpoint's own elsewhere.
        device: ``cpu``, ``cuda``, ``cuda:0``, or ``auto``: CUDA where there is one.

    Raises:
        LiteStageError: missing folder, hub out of reach, unsupported family, unknown dtype, or weights that are not
            safetensors.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    device = _device(device)
    if dtype not in (*DTYPES, "auto"):
        raise LiteStageError(f"dtype is {dtype!r}; {did_you_mean(dtype, (*DTYPES, 'auto'))}")
    source = _source(name)
    source_kwargs: dict[str, Any] = {"revision": revision} if revision else {}
    try:
        config = AutoConfig.from_pretrained(source, **source_kwargs)
        family_of(config)
        in_float32 = dtype == "auto" and (device == "cpu" or name in REFERENCE_MODELS)
        with _without_bars():
            model = AutoModelForCausalLM.from_pretrained(
                source,
                config=config,
                dtype=torch.float32 if in_float32 else DTYPES.get(dtype, "auto"),
                use_safetensors=True,
                **source_kwargs,
            )
        tokenizer = AutoTokenizer.from_pretrained(source, **source_kwargs)
    except LiteStageError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise LiteStageError(_load_failure(name, source, error)) from None
    model.requires_grad_(False)
    return LoadedModel(model.to(device).eval(), tokenizer, name, revision, fingerprint(model))


@contextmanager
def _without_bars() -> Iterator[None]:
    """Loading from disk takes a moment and needs no bar per tensor; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _source(name: str) -> str:
    if name in REFERENCE_MODELS:
        return str(Path(__file__).resolve().parent.parent / "reference" / REFERENCE_MODELS[name])
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1
    folder = Path(name).expanduser()
    if looks_local and not folder.is_dir():
        raise LiteStageError(
            f"There is no model folder {name!r}; check the path, or give a hub name such as Qwen/Qwen2.5-0.5B."
        )
    return str(folder) if folder.is_dir() else name


def _load_failure(name: str, source: str, error: Exception) -> str:
    if Path(source).is_dir():
        reason = str(error).splitlines()[0]
        return (
            f"The folder {name!r} does not hold a usable causal LM ({reason}); "
            "it needs config.json, safetensors and a tokenizer."
        )
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return f"The model {name!r} is gated on the hub; accept its licence there and set HF_TOKEN."
        if isinstance(cause, RevisionNotFoundError):
            return f"The model {name!r} has no such revision on the hub; check model.revision."
        if isinstance(cause, RepositoryNotFoundError):
            return f"There is no model {name!r} on the hub; check the spelling, or set HF_TOKEN if it is private."
        cause = cause.__cause__ or cause.__context__
    return (
        f"The model {name!r} is neither a folder here nor could it be fetched from the hub, which is out of reach or "
        "does not know it; check the network and the name, or give a local folder (model.pretrained=...)."
    )


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise LiteStageError(f"device is {device!r}, but this machine has no CUDA device; use cpu or auto.")
    return device


def fingerprint(model: Any) -> str:
    """16 hex digits that change with the architecture or any weight.

    Per tensor: name, shape, the exact integer sum of its bits and 1,024 evenly spaced values. One pass over the
    weights; not a cryptographic hash of all of them.
    """
    config = {
        key: value for key, value in model.config.to_dict().items() if not key.startswith("_") and key not in _VOLATILE
    }
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        bits = flat.contiguous().view(integers[flat.element_size()])
        sample = flat[:: max(1, flat.numel() // 1024)][:1024].double().cpu()
        digest.update(f"{name}{tuple(tensor.shape)}{int(bits.sum(dtype=torch.int64))}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


_VOLATILE = ("dtype", "torch_dtype", "transformers_version", "name_or_path", "use_cache")
