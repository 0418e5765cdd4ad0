"""Loading a causal LM from a folder, a GGUF file or the hub, an adapter merged: what was asked for, or an error.

:mod:`litestage.decoder.source` says what a name stands for, :mod:`litestage.decoder.checkpoint` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from litestage.decoder.adapter import merged
from litestage.decoder.checkpoint import Checkpoint, read_checkpoint, read_tokenizer
from litestage.decoder.files import first_line
from litestage.decoder.generation import CHOICES, left_out, say_left_out
from litestage.decoder.packed import in_int8, why_not_int8
from litestage.decoder.source import REFERENCE_MODELS, Source, source_of
from litestage.errors import LiteStageError, one_of
from litestage.hub import hub

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = ("auto", "int8")


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode with its tokenizer and what identifies it.

    Attributes:
        revision: the hub's commit that was read; None for what is not from the hub.
        adapter: the adapter that was merged, as it was given.
        generation_config_left_out: settings that ``generate`` would follow and the engine does not, with their values.
    """

    model: Any
    tokenizer: Any
    name: str
    revision: str | None
    fingerprint: str
    adapter: str | None = None
    generation_config_left_out: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """What stands of it in results: always its fingerprint, the rest where there is any."""
        known = {
            "revision": self.revision,
            "adapter": self.adapter,
            "generation_config_left_out": dict(self.generation_config_left_out),
        }
        return {"fingerprint": self.fingerprint, **{key: value for key, value in known.items() if value}}


def load_model(
    name: str = "reference",
    *,
    revision: str | None = None,
    adapter: str | None = None,
    dtype: str = "auto",
    weights: str = "auto",
    device: str = "auto",
    generation_config: str = "ignore",
) -> LoadedModel:
    """Loads a causal LM and its tokenizer.

    Args:
        name: a name that :mod:`litestage.decoder.source` knows (``reference``, ``smollm2-135m``, ...), a folder, a GGUF
            file, or a hub name.
        revision: hub branch, tag or commit.
        adapter: folder or hub name of a PEFT adapter, merged in float32.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: float32 on a CPU and for the embedded models, the
            checkpoint's own elsewhere.
        weights: ``auto``, in ``dtype``; or ``int8``: those of all projections and of the head in 8 bits
            (:mod:`litestage.decoder.panels`), on a CPU and in bfloat16, which ``dtype=auto`` then means.
        device: ``cpu``, ``cuda``, ``cuda:0``, or ``auto``: CUDA where there is one.
        generation_config: of settings in the model's generation_config that the engine does not apply: ``ignore``
            says so once, ``refuse`` is an error.

    Raises:
        LiteStageError: missing folder, hub out of reach, unsupported family, unknown dtype, weights that are not
            safetensors or GGUF or are not all there, an adapter that does not fit, or int8 where it does not run.
    """
    device = _device(device)
    one_of("weights", weights, WEIGHTS)
    if weights == "int8":
        dtype = "bfloat16" if dtype == "auto" else dtype
        check_int8(dtype, device)
    one_of("dtype", dtype, (*DTYPES, "auto"))
    one_of("generation_config", generation_config, CHOICES)
    in_float32 = dtype == "auto" and (device == "cpu" or name in REFERENCE_MODELS)
    read = read_model(name, revision, adapter, torch.float32 if in_float32 else DTYPES.get(dtype))
    model = read.model.requires_grad_(False).to(device)
    fields = left_out(model.generation_config)
    say_left_out(fields, name, generation_config)
    loaded = LoadedModel(model, read.tokenizer, name, read.commit, fingerprint(model), adapter, fields)
    if weights == "int8":
        in_int8(model)
    return loaded


def check_int8(dtype: str, device: str) -> None:
    """Raises LiteStageError where weights=int8 cannot run so; a device or dtype of ``auto`` is left to loading."""
    if device not in ("cpu", "auto"):
        raise LiteStageError(f"weights=int8 runs on a CPU, and the device is {device!r}; give device=cpu.")
    if dtype not in ("bfloat16", "auto"):
        raise LiteStageError(f"weights=int8 runs in bfloat16, and dtype is {dtype!r}; give dtype=bfloat16.")
    if (reason := why_not_int8()) is not None:
        raise LiteStageError(f"weights=int8 does not run here: {reason}; leave it out.")


def read_model(
    name: str, revision: str | None = None, adapter: str | None = None, dtype: torch.dtype | None = None
) -> Checkpoint:
    """What :func:`load_model` loads, in ``dtype`` or else the checkpoint's own, in evaluation mode on the CPU."""
    source = source_of(name, revision, adapter)
    at_first = (dtype or "auto") if source.adapter is None else torch.float32
    try:
        with nullcontext() if source.local else hub():
            read = read_checkpoint(source.place, name, source.revision, at_first)
    except OSError as error:
        raise LiteStageError(_not_fetched(name, source, error)) from None
    if source.adapter is None:
        return read
    model = merged(read.model, source.adapter).to(dtype or read.own_dtype or torch.float32).eval()
    own = source.adapter if (source.adapter / "tokenizer_config.json").is_file() else None
    return replace(read, model=model, tokenizer=read_tokenizer(str(own), name, model) if own else read.tokenizer)


def _not_fetched(name: str, source: Source, error: OSError) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    called = repr(name) if name == source.place else f"{source.place!r}, which {name!r} stands for,"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, GatedRepoError):
            return f"The model {called} is gated on the hub; accept its licence there and set HF_TOKEN."
        if isinstance(cause, RevisionNotFoundError):
            return f"The model {called} has no such revision on the hub; check model.revision."
        if isinstance(cause, RepositoryNotFoundError) and not source.hint:
            return f"There is no model {called} on the hub; check the spelling, or set HF_TOKEN if it is private."
        cause = cause.__cause__ or cause.__context__
    if "does not appear to have a file named config.json" in str(error):
        return f"{called} on the hub has no config.json; if it is an adapter, give its base, and it as adapter=...."
    todo = source.hint or "check the network and the name, or give a local folder (model.pretrained=...)"
    return (
        f"The model {called} is neither a folder here nor could it be fetched from the hub, which is out of reach or "
        f"does not know it; {todo}."
    )


def _device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise LiteStageError(f"device is {device!r}, but this machine has no CUDA device; use cpu or auto.")
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise LiteStageError(
            f"device is {device!r}, on which this PyTorch computes nothing ({first_line(error)[:80]}); use cpu, cuda "
            "or auto."
        ) from None
    return device


def fingerprint(model: Any) -> str:
    """16 hex digits of a hash of the architecture and of every weight in its place: about a second for each GB."""
    config = {
        key: value for key, value in model.config.to_dict().items() if not key.startswith("_") and key not in _VOLATILE
    }
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


_VOLATILE = ("dtype", "torch_dtype", "transformers_version", "name_or_path", "use_cache")
