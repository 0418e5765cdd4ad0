"""What ``--model_args`` may hold, and what lm-eval adds to it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

from litestage.config import pipeline_of_model
from litestage.errors import LiteStageError, did_you_mean, one_of
from litestage.methods.shorthand import check_spec
from litestage.overrides import at_home
from litestage.reading import whole
from litestage.stages import load_pipeline
from litestage.stages.pipeline import FAN_OUT_MODES

_THROUGHPUT = 64  # questions at a time with batch_size=auto, unless --max_batch_size says how many
_DEFAULT_DEVICE = "cuda:0"  # lm-eval's, when no device was asked for, for many devices and on machines without CUDA too


@dataclass(frozen=True)
class ModelArguments:
    """The model's arguments, checked.

    Attributes:
        pretrained: ``reference`` (embedded), ``smollm2-135m``, a folder, a GGUF file, or a hub name.
        revision: hub branch, tag or commit.
        adapter: folder or hub name of a PEFT adapter, merged at loading.
        generation_config: ``ignore`` says which of the model's generation settings are left out, ``refuse`` stops.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        weights: ``auto``, in dtype, or ``int8``, on a CPU and in bfloat16.
        plan: shorthand (``full``, ``uniform:8``, ``cosine:8+exit``, ...) or a plan file.
        pipeline: pipeline name or file instead of the model's own, if it has one, or else the task's.
        analyze: mode of the stages that fan out over the options.
        chat_template: wrap every stage's prompt in the tokenizer's chat template, as ``--apply_chat_template`` does.
        store: file of the result store; the user's cache folder unless given.
        batch_size: 1 answers the questions one at a time, by the clock; more answers them together, untimed.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:0``.
        devices, num_nodes: processes that share the requests: on this machine, and machines.
    """

    pretrained: str = "reference"
    revision: str | None = None
    adapter: str | None = None
    generation_config: str = "ignore"
    dtype: str = "auto"
    weights: str = "auto"
    plan: str = "full"
    pipeline: str | None = None
    analyze: str | None = None
    chat_template: bool = False
    store: str | None = None
    batch_size: int = 1
    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ModelArguments:
        """From the keywords lm-eval calls the model with.

        Raises:
            LiteStageError: an unknown argument, ``trust_remote_code``, a batch size that is no positive number, an
                unknown mode, a text that arrives as something else, or a plan or pipeline that does not read.
        """
        values = {key: value for key, value in given.items() if value is not None}
        if values.pop("trust_remote_code", False):
            raise LiteStageError("trust_remote_code is refused: litestage runs no code from the hub; leave it out.")
        most = whole(values.pop("max_batch_size", _THROUGHPUT), "max_batch_size", least=1)
        known = {entry.name: entry.type for entry in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise LiteStageError(f"The model argument {key!r} is not known; {did_you_mean(key, known)}")
            if key in _TEXTS:
                values[key] = at_home(_text(key, value))
        if not isinstance(values.get("chat_template", False), bool):
            raise LiteStageError(f"chat_template is {values['chat_template']!r}; it is true or false.")
        one_of("analyze", values.get("analyze", FAN_OUT_MODES[0]), FAN_OUT_MODES)
        values["batch_size"] = _batch_size(values.get("batch_size", 1), most)
        for name in ("devices", "num_nodes"):
            values[name] = whole(values.get(name, 1), name, least=1)
        values["device"] = _device(values.get("device", "auto"), one=values["devices"] == 1)
        values.setdefault("pipeline", pipeline_of_model(values.get("pretrained", cls.pretrained)))
        arguments = cls(**values)
        check_spec(arguments.plan)
        if arguments.pipeline is not None:
            load_pipeline(arguments.pipeline)
        return arguments


_TEXTS = frozenset(entry.name for entry in fields(ModelArguments) if "str" in str(entry.type))


def joined(given: Mapping[str, Any], added: Mapping[str, Any] | None) -> dict[str, Any]:
    """The model's arguments with those that lm-eval adds for options of its own, ``--device`` and ``--batch_size``.

    Raises:
        LiteStageError: one of them is given in both places, with two values. lm-eval writes its own option's into its
            results; only the device that it takes where none was asked for gives way.
    """
    added = {name: value for name, value in (added or {}).items() if value is not None}
    for name in given.keys() & added.keys():
        if name == "device" and added[name] == _DEFAULT_DEVICE:
            added[name] = given[name]
        if str(given[name]) != str(added[name]):
            raise LiteStageError(
                f"{name} is {given[name]!r} in --model_args and {added[name]!r} as lm-eval's own option; give it there "
                f"only: --{name} {given[name]}."
            )
    return {**given, **added}


def quoted(arguments: str) -> str:
    """An argument string whose texts lm-eval leaves alone: it would read ``revision=0012345`` as a number."""
    parts = (part.partition("=") for part in arguments.split(","))
    return ",".join(
        f'{key}="{value.strip()}"' if key.strip() in _TEXTS and _is_bare(value) else f"{key}{equals}{value}"
        for key, equals, value in parts
    )


def as_typed(given: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The arguments of lm-eval's command line, texts among them as they stand in its ``words``.

    lm-eval has read them by now: ``revision=0012345`` as a number, ``12e4567`` as infinity.
    """
    return {
        key: _typed(key, value, words) if key in _TEXTS and isinstance(value, (int, float)) else value
        for key, value in given.items()
    }


def _typed(key: str, value: float, words: Sequence[str]) -> Any:
    for word in words:
        for written in re.findall(rf"(?:^|[,=\s]){key}=([^,\s]*)", word):
            if str(value) in _readings(written):
                return written
    return value


def _readings(written: str) -> set[str]:
    """What lm-eval may have read a text as, as texts."""
    readings = {written.capitalize()}
    for read in (int, float, ast.literal_eval):
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            readings.add(str(read(written)))
    return readings


def _is_bare(value: str) -> bool:
    """Whether a value is neither in quotes nor nothing."""
    return value.strip().lower() not in ("", "none") and value.strip()[0] not in "'\""


def _text(name: str, value: Any) -> str:
    """Raises LiteStageError for a value that was a text once, but none can say which."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise LiteStageError(
        f"{name} arrives from lm-eval as {value!r:.80}, not as the text that was written; put it in two pairs of "
        f"quotes: {name}=\"'...'\"."
    )


def _batch_size(value: Any, most: int) -> int:
    """As given; ``most``, which lm-eval's ``--max_batch_size`` is, where it is auto."""
    if str(value).partition(":")[0] == "auto":
        return most
    if not str(value).isdecimal() or int(value) < 1:
        raise LiteStageError(f"batch_size is {value!r}; give 1 (timed) or more (together, untimed), or auto.")
    return int(value)


def _device(value: str, one: bool) -> str:
    """A device for what may be lm-eval's default."""
    if value != _DEFAULT_DEVICE:
        return value
    import torch

    return value if one and torch.cuda.is_available() else "auto"
