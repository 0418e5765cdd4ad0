"""A folder or hub name to a model and a tokenizer: safetensors, all of them, nothing else, and no code."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from litestage.decoder.families import family_of
from litestage.decoder.files import check_folder, first_line, listed, shapes
from litestage.errors import LiteStageError

_OWN = ("lm_head.", "model.")
"""Beginnings of names that a causal LM's own tensors have: one that finds no place was meant to be used."""
LARGER = 4
"""How many times as many weights as its files hold a model may have; what is missing or misshapen is told by name."""


@dataclass(frozen=True)
class Checkpoint:
    """What was read.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: its own.
        commit: the hub's commit, None for a folder.
        own_dtype: what the weights are stored in.
    """

    model: Any
    tokenizer: Any
    commit: str | None
    own_dtype: Any


def read_checkpoint(place: str, name: str, revision: str | None = None, dtype: Any = "auto") -> Checkpoint:
    """Reads a causal LM and its tokenizer from a folder or the hub, both of one commit.

    Args:
        name: what the user calls it.
        dtype: torch's, or ``auto``: the checkpoint's own.

    Raises:
        LiteStageError: a family that is not supported, a quantised checkpoint, one that needs code of its own, weights
            that are missing, truncated, left over, of another shape or not safetensors, or no usable tokenizer.
        OSError: the hub is out of reach or does not know the name.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    local = Path(place).is_dir()
    if local:
        check_folder(Path(place), name)
    with _explained(name, local), quietly():
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **_of(revision))
    family_of(config)
    if quantised := getattr(config, "quantization_config", None):
        how = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise LiteStageError(
            f"The checkpoint {name!r} is quantised ({how or 'quantization_config'}); give the model it was made from, "
            "or a GGUF file, which is dequantised."
        )
    if "/" in (config._attn_implementation or ""):
        raise LiteStageError(f"The model {name!r} has attention kernels of its own; remove attn_implementation there.")
    if local:
        _refuse_larger_than_its_files(config, Path(place), name)
    commit = None if local else _commit(place, revision)
    revision = commit or revision
    own_dtype = config.dtype
    with _explained(name, local), quietly():
        model, info = AutoModelForCausalLM.from_pretrained(
            place,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that all are told, by name
            **_of(revision),
        )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise LiteStageError(f"{name!r} on the hub holds a model and an adapter; give its base and adapter={name}.")
    refuse_other_tensors(info, name)
    return Checkpoint(model.eval(), read_tokenizer(place, name, model, revision), commit, own_dtype)


def read_tokenizer(place: str, name: str, model: Any, revision: str | None = None) -> Any:
    """The tokenizer of a folder or hub name. Raises LiteStageError where it is unusable, or too large for ``model``."""
    from transformers import AutoTokenizer

    with _explained(name, Path(place).is_dir(), "tokenizer"), quietly():
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False, **_of(revision))
        bare, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    if whole[-1:] != bare[-1:]:
        raise LiteStageError(
            f"The tokenizer of {name!r} puts {tokenizer.decode(whole[-1:])!r} behind every text, and a model would go "
            "on from there; have it put nothing there (add_eos_token in tokenizer_config.json, or its post_processor)."
        )
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise LiteStageError(
            f"The tokenizer of {name!r} has {tokenizer.vocab_size} tokens and the model embeddings for {rows}; "
            "give the tokenizer it was trained with."
        )
    # special ones stay: Gemma-3 names a place for images that its text models have no row for
    added = {index: token for index, token in tokenizer.added_tokens_decoder.items() if not token.special}
    if added and (last := max(added)) >= rows:
        raise LiteStageError(
            f"The tokenizer of {name!r} has an added token {str(added[last])!r} with id {last} and the model "
            f"embeddings for {rows}; give the tokenizer it was trained with."
        )
    return tokenizer


def _refuse_larger_than_its_files(config: Any, folder: Path, name: str) -> None:
    """Raises LiteStageError for a configuration far larger than the weights beside it, before it takes the memory."""
    from transformers import AutoModelForCausalLM

    stored = [math.prod(shape) for file in folder.glob("model*.safetensors") for shape in shapes(file).values()]
    if not stored:
        return
    layers = config.num_hidden_layers
    if isinstance(layers, int) and layers > len(stored):
        raise LiteStageError(
            f"The checkpoint {name!r} has {layers:,} layers by its config.json and {len(stored)} tensors in its files; "
            "give the whole, matching one."
        )
    with _explained(name, local=True), quietly(), torch.device("meta"):
        described = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    if described > LARGER * sum(stored):
        raise LiteStageError(
            f"The checkpoint {name!r} has {described:,} weights by its config.json and {sum(stored):,} in its files; "
            "give the whole, matching one."
        )


def _commit(name: str, revision: str | None) -> str | None:
    """The commit of what the hub's client has just read: the folder of its cache that the file is in."""
    from huggingface_hub import try_to_load_from_cache

    file = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def _of(revision: str | None) -> dict[str, Any]:
    return {"revision": revision} if revision else {}


@contextmanager
def _explained(name: str, local: bool, part: str = "causal LM") -> Iterator[None]:
    """One sentence for whatever transformers and what it uses raise; the hub's own errors are told elsewhere."""
    try:
        yield
    except LiteStageError:
        raise
    except Exception as error:  # tokenizers raises Exception itself, and a wrong configuration raises anything
        if "trust_remote_code" in str(error):
            raise LiteStageError(
                f"The model {name!r} needs code of its own ({part}), and litestage runs none that comes with a model; "
                "give one that transformers knows."
            ) from error
        if not local and isinstance(error, OSError):
            raise
        raise LiteStageError(
            f"The {'folder' if local else 'model'} {name!r} does not hold a usable {part} ({first_line(error)}); "
            "it needs config.json, safetensors and a tokenizer."
        ) from error


def refuse_other_tensors(info: Mapping[str, Any], name: str) -> None:
    """Raises LiteStageError where the tensors read are not the model's own.

    Args:
        info: transformers' loading information. A tied head is not missing there.
    """
    misshapen = {f"{key} is {list(given)}, not {list(wanted)}" for key, given, wanted in info["mismatched_keys"]}
    missing = {str(key) for key in info["missing_keys"]}
    left = {str(key) for key in info["unexpected_keys"]}
    for what, tensors in (
        ("lacks", missing),
        ("has tensors of another shape than its configuration says:", misshapen),
        ("has tensors that its configuration has no place for:", {key for key in left if key.startswith(_OWN)}),
    ):
        if tensors:
            raise LiteStageError(f"The checkpoint {name!r} {what} {listed(tensors)}; give the whole, matching one.")
    if info.get("error_msgs"):
        raise LiteStageError(f"The checkpoint {name!r} did not load ({first_line(info['error_msgs'][0])}).")
    if left:
        getLogger(__name__).warning("%s: %s are no part of a causal LM and were left out", name, listed(left))


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' bars and load reports: what matters in them is an error here. Downloads keep their bars."""
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
