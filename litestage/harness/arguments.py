"""What ``--model_args`` may hold, and what lm-eval adds to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from litestage.config import TrainerConfig, pipeline_of_model
from litestage.errors import LiteStageError, did_you_mean
from litestage.methods.shorthand import parse_shorthand
from litestage.plan import load_plan
from litestage.stages.pipeline import FAN_OUT_MODES

_THROUGHPUT = 64  # questions at a time with batch_size=auto


@dataclass(frozen=True)
class ModelArguments:
    """The model's arguments, checked.

    Attributes:
        pretrained: ``reference`` (embedded), ``smollm2-135m``, a folder, a GGUF file, or a hub name.
        revision: hub branch, tag or commit.
        adapter: folder or hub name of a PEFT adapter, merged at loading.
        generation_config: ``ignore`` says which of the model's generation settings are left out, ``refuse`` stops.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
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
    plan: str = "full"
    pipeline: str | None = None
    analyze: str | None = None
    chat_template: bool = False
    store: str | None = None
    batch_size: int = 1
    device: str = "auto"
    devices: int = 1
    num_nodes: int = 1

    @property
    def trainer(self) -> TrainerConfig:
        """The processes, as every command's options have them."""
        return TrainerConfig(self.devices, self.num_nodes)

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> ModelArguments:
        """From the keywords lm-eval calls the model with.

        Raises:
            LiteStageError: an unknown argument, ``trust_remote_code``, a batch size that is no positive number, an
                unknown mode, or a plan that does not read.
        """
        values = {key: value for key, value in given.items() if value is not None and key != "max_batch_size"}
        if values.pop("trust_remote_code", False):
            raise LiteStageError("trust_remote_code is refused: litestage runs no code from the hub; leave it out.")
        known = {entry.name: entry.type for entry in fields(cls)}
        for key, value in values.items():
            if key not in known:
                raise LiteStageError(f"The model argument {key!r} is not known; {did_you_mean(key, known)}")
            if "str" in str(known[key]):
                values[key] = str(value)  # lm-eval reads revision=1234567 as a number
        if not isinstance(values.get("chat_template", False), bool):
            raise LiteStageError(f"chat_template is {values['chat_template']!r}; it is true or false.")
        if values.get("analyze", FAN_OUT_MODES[0]) not in FAN_OUT_MODES:
            raise LiteStageError(f"analyze is {values['analyze']!r}; {did_you_mean(values['analyze'], FAN_OUT_MODES)}")
        values["batch_size"] = _batch_size(values.get("batch_size", 1))
        for name in ("devices", "num_nodes"):
            if not str(values.get(name, 1)).isdecimal():
                raise LiteStageError(f"{name} is {values[name]!r}; give a number, at least 1.")
            values[name] = int(values.get(name, 1))
        values["device"] = _device(values.get("device", "auto"), one=values["devices"] == 1)
        values.setdefault("pipeline", pipeline_of_model(values.get("pretrained", cls.pretrained)))
        arguments = cls(**values)
        _check_plan(arguments.plan)
        return arguments


def _check_plan(spec: str) -> None:
    """Reads the plan once before a model is loaded for it, which can take minutes."""
    path = spec.removesuffix("+exit")
    if path.endswith((".yaml", ".yml")):
        load_plan(path)
    else:
        parse_shorthand(spec)


def _batch_size(value: Any) -> int:
    if str(value).partition(":")[0] == "auto":
        return _THROUGHPUT
    if not str(value).isdecimal() or int(value) < 1:
        raise LiteStageError(f"batch_size is {value!r}; give 1 (timed) or more (together, untimed), or auto.")
    return int(value)


def _device(value: str, one: bool) -> str:
    """lm-eval passes ``cuda:0`` when no device was asked for, for many devices and on machines without CUDA too."""
    if value != "cuda:0":
        return value
    import torch

    return value if one and torch.cuda.is_available() else "auto"
