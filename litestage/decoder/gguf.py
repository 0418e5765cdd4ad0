"""GGUF files: dequantised by transformers to float32, once, into a folder that loads as any other."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from litestage.decoder.checkpoint import quietly, refuse_other_tensors
from litestage.decoder.families import family_of
from litestage.decoder.files import POINTER, first_line, listed
from litestage.errors import LiteStageError
from litestage.progress import bar

_UNREAD = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that change every position's rotation, and which transformers passes over."""
_ENDS = tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
"""What ends a text, a turn and a message: llama.cpp ends a generation at each, and transformers reads the first."""
_CONVERSION = 2  # of what is read in a file: one that was converted otherwise is converted anew


def installed_gguf(package: str) -> Path | None:
    """The GGUF file in an installed distribution, which is not imported; None where it is not installed."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.suffix == ".gguf")
    return next((path for path in found if path.is_file()), None)


def converted(file: Path) -> Path:
    """A folder of safetensors in float32, configuration and tokenizer, made from ``file`` unless it was before.

    It is kept under ``$XDG_CACHE_HOME/litestage/gguf`` (or ``~/.cache``) by the file's hash and the version of
    transformers, and put there in one move.

    Raises:
        LiteStageError: absent, truncated, not GGUF, a family that is not supported, what transformers would leave out,
            or a cache folder that cannot be written.
    """
    import transformers

    if not os.path.isfile(file):
        raise LiteStageError(f"There is no GGUF file {str(file)!r}; check the path.")
    with _explained(file), file.open("rb") as opened:
        start = opened.read(len(POINTER))
        if start == POINTER:
            raise LiteStageError(f"{file} is a git-LFS pointer, not the file itself; run git lfs pull.")
        if start[:4] != b"GGUF":
            raise LiteStageError(f"{file} is not a GGUF file; give one, or a model folder.")
        opened.seek(0)
        digest = hashlib.file_digest(opened, "sha256").hexdigest()[:32]
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "litestage" / "gguf"
        folder = cache / f"{digest}-{_CONVERSION}-transformers-{transformers.__version__}"
        if not folder.is_dir():
            cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as unfinished:
                model, tokenizer = _dequantised(file)
                whole = Path(unfinished, "whole")
                with quietly():
                    model.save_pretrained(whole)
                    tokenizer.save_pretrained(whole)
                _moved(whole, folder)
    except (OSError, RuntimeError) as error:
        raise LiteStageError(
            f"The GGUF file {str(file)!r} cannot be kept converted ({first_line(error)}); "
            "give XDG_CACHE_HOME a folder that can be written, with room for the model in float32."
        ) from None
    return folder


def _moved(whole: Path, folder: Path) -> None:
    try:
        whole.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was first
            raise


def _dequantised(file: Path) -> tuple[Any, Any]:
    """The file's model in float32, and its tokenizer."""
    import torch
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    with _explained(file), quietly(), _own_bar():
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        family_of(config)
        reader = GGUFReader(file)
        _check(reader, file, config)
        ends = list(dict.fromkeys(int(reader.fields[key].contents()) for key in _ENDS if key in reader.fields))
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
            **_unpacked(),
        )
        refuse_other_tensors(info, str(file))
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        if len(ends) > 1:
            model.generation_config.eos_token_id = ends
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None  # or it refuses to be saved
    return model, tokenizer


@contextmanager
def _own_bar() -> Iterator[None]:
    """Shows transformers' bar over the tensors, which it offers no way to turn off, as one of ours."""
    from transformers import modeling_gguf_pytorch_utils as reader

    def shown(tensors: Sequence[Any], **_: Any) -> Iterator[Any]:
        with bar("converting the GGUF file, this once", len(tensors)) as advance:
            for tensor in tensors:
                yield tensor
                advance(1)

    theirs = vars(reader).get("tqdm")
    reader.tqdm = shown  # type: ignore[assignment]
    try:
        yield
    finally:
        reader.tqdm = theirs  # type: ignore[assignment]


def _unpacked() -> dict[str, Any]:
    """Keeps newer releases of transformers from leaving the weights packed, for which they fetch kernels."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _check(reader: Any, file: Path, config: Any) -> None:
    """Raises LiteStageError where transformers would read the file and pass over a part of it.

    Args:
        config: what transformers has read in the file's metadata.
    """
    kind = reader.fields["general.architecture"].contents()
    said = {key.removeprefix(f"{kind}."): field.contents() for key, field in reader.fields.items()}
    names = {tensor.name for tensor in reader.tensors}
    unread = [name for name in _UNREAD if name in names]
    scaling = said.get("rope.scaling.type")
    if scaling and scaling != "none":
        unread.append(f"{kind}.rope.scaling.type={scaling}")
    if not scaling:
        factors = [key for key in ("rope.scaling.factor", "rope.scale_linear") if said.get(key, 1) not in (0, 1)]
        unread += [f"{kind}.{key}={said[key]:g}" for key in factors]
    if unread:
        raise LiteStageError(
            f"{file} scales its rotary positions ({', '.join(unread)}), which transformers does not read from GGUF; "
            "give the model's safetensors."
        )
    if said.get("attention.sliding_window", 0) >= config.max_position_embeddings:
        del said["attention.sliding_window"]  # hides nothing
    others = [
        f"{kind}.{key}={said[key]} ({read or 'none'} there)"
        for key, read in _computed_with(config).items()
        if key in said and (said[key] or None) != read
    ]
    if others:
        raise LiteStageError(
            f"{file} has {', '.join(others)}, which transformers does not read from GGUF; give the model's safetensors."
        )
    if placeless := names - _tensors(config, kind):
        raise LiteStageError(
            f"{file} has tensors that its configuration has no place for: {listed(placeless)}; "
            "give the model's safetensors."
        )


def _computed_with(config: Any) -> dict[str, Any]:
    """What transformers computes with, by keys of GGUF's metadata; None for what it leaves out."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    turned = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    return {
        "rope.dimension_count": int(width * turned),
        "attention.key_length": getattr(config, "query_pre_attn_scalar", width),  # scores are divided by its root
        "attention.sliding_window": getattr(config, "sliding_window", None),
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
    }


def _tensors(config: Any, kind: str) -> set[str]:
    """The names in GGUF of all tensors that the model of ``config`` has."""
    import torch
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        own = AutoModelForCausalLM.from_config(config).state_dict()
    architecture = {name: key for key, name in MODEL_ARCH_NAMES.items()}[kind]
    called = get_tensor_name_map(architecture, config.num_hidden_layers)
    parts = [name.rpartition(".") for name in own]
    return {f"{called.get_name(stem)}.{end}" for stem, _, end in parts}


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """One sentence for whatever reading the file raises."""
    try:
        yield
    except LiteStageError:
        raise
    except Exception as error:  # a reader of foreign bytes raises anything
        raise LiteStageError(
            f"The GGUF file {str(file)!r} cannot be read ({first_line(error)}); it may be truncated or of a kind that "
            "transformers does not know: fetch it again, or give the model's safetensors."
        ) from error
