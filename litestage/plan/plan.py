"""The plan's types. Immutable, hashed by what they do, validated against a model and a pipeline."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from litestage.errors import LiteStageError, did_you_mean

if TYPE_CHECKING:
    import torch

SCHEMA = "litestage.plan/1"
PHASES = ("both", "decode")
COMPENSATIONS = re.compile(r"none|scale|affine|lowrank:[1-9]\d*|linear")


def _layers(kind: str, values: Iterable[int]) -> tuple[int, ...]:
    values = tuple(values)
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise LiteStageError(f"skip.{kind} holds {value!r}; layer indices are whole numbers from 0.")
    if len(set(values)) != len(values):
        raise LiteStageError(f"skip.{kind} names a layer twice: {list(values)}; name each once.")
    return tuple(sorted(values))


@dataclass(frozen=True)
class SkipSet:
    """Layers whose attention (``mhsa``) and whose feed-forward (``ffn``) sub-layer are not run."""

    mhsa: tuple[int, ...] = ()
    ffn: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mhsa", _layers("mhsa", self.mhsa))
        object.__setattr__(self, "ffn", _layers("ffn", self.ffn))

    def __len__(self) -> int:
        return len(self.mhsa) + len(self.ffn)

    def __contains__(self, sublayer: tuple[str, int]) -> bool:
        kind, layer = sublayer
        return layer in (self.mhsa if kind == "mhsa" else self.ffn)

    @classmethod
    def of(cls, sublayers: Iterable[tuple[str, int]]) -> SkipSet:
        """From (kind, layer) pairs."""
        pairs = list(sublayers)
        return cls(
            tuple(layer for kind, layer in pairs if kind == "mhsa"),
            tuple(layer for kind, layer in pairs if kind == "ffn"),
        )


@dataclass(frozen=True)
class ExitRule:
    """When a stage's generation is cut short: the mean of the last ``window`` confidences is <= ``threshold``.

    Confidence is the largest softmax probability of a step (LiteStage, arXiv 2510.14211; the window length is not
    published, 5 is our choice).
    """

    rule: str = "confidence"
    threshold: float = 0.5
    window: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise LiteStageError(f"exit threshold {self.threshold} is outside 0 to 1; give a probability.")
        if not isinstance(self.window, int) or self.window < 1:
            raise LiteStageError(
                f"exit window {self.window!r} is not a number of steps; give a whole number, at least 1."
            )


@dataclass(frozen=True)
class StagePlan:
    """What the engine does differently from full depth in one stage.

    Attributes:
        skip: the sub-layers left out.
        phase: ``both`` skips in prefill and decode; ``decode`` runs the prompt at full depth.
        compensation: what stands in for a skipped sub-layer's update (``none``: nothing).
        schedule: position-dependent skip sets; None for a fixed set.
        exit: rule that may end the generation early, or None.
        tensors: the compensation's tensors by ``"mhsa.4"`` or ``"ffn.7"``.
    """

    skip: SkipSet = SkipSet()
    phase: str = "both"
    compensation: str = "none"
    schedule: Mapping[str, Any] | None = None
    exit: ExitRule | None = None
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise LiteStageError(f"phase is {self.phase!r}; {did_you_mean(str(self.phase), PHASES)}")
        if not COMPENSATIONS.fullmatch(self.compensation):
            raise LiteStageError(
                f"compensation is {self.compensation!r}; it is one of none, scale, affine, lowrank:<rank>, linear."
            )
        if self.schedule is not None and not isinstance(self.schedule, Mapping):
            raise LiteStageError(f"schedule is {self.schedule!r}; it is a mapping, or null for a fixed skip set.")
        if self.compensation != "none":
            for kind in ("mhsa", "ffn"):
                for layer in getattr(self.skip, kind):
                    if f"{kind}.{layer}" not in self.tensors:
                        raise LiteStageError(
                            f"compensation {self.compensation!r} has no tensor for the skipped {kind} {layer}; "
                            "keep the plan's .safetensors file beside it."
                        )
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @cached_property
    def compensation_digest(self) -> str:
        """Identifies the compensation's numbers; empty without one."""
        if not self.tensors:
            return ""
        digest = hashlib.sha256()
        for key in sorted(self.tensors):
            tensor = self.tensors[key].detach().cpu().contiguous()
            digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(tensor.double().numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def computation(self) -> dict[str, Any]:
        """Everything but the exit rule that decides which tokens come out, as plain data."""
        return {
            "skip": {"mhsa": list(self.skip.mhsa), "ffn": list(self.skip.ffn)},
            "phase": self.phase,
            "compensation": self.compensation,
            "compensation_digest": self.compensation_digest,
            "schedule": dict(self.schedule) if self.schedule else None,
        }


@dataclass(frozen=True)
class Plan:
    """Per stage what is skipped and when it ends. A stage that is not named runs at full depth.

    Attributes:
        stages: stage name to its plan; a task without stages runs under the name ``default``.
        model: ``{name, revision, layers, fingerprint}`` of the model it was made for, if known.
        pipeline: ``{name, hash}`` of the pipeline it was made for, if known.
        provenance: how it came about; not part of the hash.
    """

    stages: Mapping[str, StagePlan]
    model: Mapping[str, Any] | None = None
    pipeline: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", MappingProxyType(dict(self.stages)))

    @classmethod
    def full(cls, stages: Iterable[str], exit: ExitRule | None = None) -> Plan:
        """Full depth in every stage, with or without an exit rule."""
        return cls(
            {name: StagePlan(exit=exit) for name in stages}, provenance={"method": "full+exit" if exit else "full"}
        )

    def __getitem__(self, stage: str) -> StagePlan:
        return self.stages.get(stage, StagePlan())

    @cached_property
    def hash(self) -> str:
        """Identifies what the plan does: its stages, exit rules and compensation, not where it came from."""
        content = {
            name: {**stage.computation, "exit": asdict(stage.exit) if stage.exit else None}
            for name, stage in sorted(self.stages.items())
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def with_exit(self, rule: ExitRule | None, stages: Iterable[str] = ()) -> Plan:
        """The same plan with ``rule`` in each of its stages, and in ``stages`` that it does not name."""
        names = dict.fromkeys((*self.stages, *stages))
        return replace(self, stages={name: replace(self[name], exit=rule) for name in names})

    def validate(
        self,
        *,
        layers: int,
        fingerprint: str | None = None,
        stages: Iterable[str] | None = None,
        pipeline_hash: str | None = None,
    ) -> None:
        """Raises LiteStageError, saying what differs, when the plan does not fit a model or pipeline."""
        made_for = self.model or {}
        if made_for.get("layers") not in (None, layers):
            raise LiteStageError(
                f"The plan was made for a model of {made_for['layers']} layers ({made_for.get('name')}), this one has "
                f"{layers}; use the plan's own model or search a plan for this one."
            )
        if fingerprint and made_for.get("fingerprint") not in (None, fingerprint):
            raise LiteStageError(
                f"The plan was made for another model ({made_for.get('name')}, fingerprint {made_for['fingerprint']}; "
                f"this one has {fingerprint}); use the plan's own model or search a plan for this one."
            )
        made_through = self.pipeline or {}
        if pipeline_hash and made_through.get("hash") not in (None, pipeline_hash):
            raise LiteStageError(
                f"The plan was made for another pipeline ({made_through.get('name')}, hash {made_through['hash']}; "
                f"this one has {pipeline_hash}); search a plan for this one."
            )
        for name, stage in self.stages.items():
            for kind in ("mhsa", "ffn"):
                for layer in getattr(stage.skip, kind):
                    if layer >= layers:
                        raise LiteStageError(
                            f"The plan skips {kind} {layer} in stage {name!r}, but the model's layers are "
                            f"0 to {layers - 1}; correct the plan."
                        )
        if stages is not None:
            known = tuple(stages)
            for name in self.stages:
                if name not in (*known, "default"):
                    raise LiteStageError(f"The plan names the stage {name!r}; {did_you_mean(name, known)}")
            if known == ("default",) and "default" not in self.stages:
                raise LiteStageError(
                    f"The plan has no stage 'default' (it names {', '.join(self.stages) or 'none'}), which a task "
                    "without stages runs under; add one or use a shorthand such as uniform:4."
                )
