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
from litestage.plan.schedule import checked, step_sets
from litestage.plan.skip import SkipSet

if TYPE_CHECKING:
    import torch

SCHEMA = "litestage.plan/1"
PHASES = ("both", "decode")
COMPENSATIONS = re.compile(r"none|scale|affine|lowrank:[1-9]\d*|linear")
"""Forms with one tensor for every skipped sub-layer."""
PER_CUT = ("block", "merged")
"""Forms with one tensor for a whole run of neighbouring skipped sub-layers, a cut."""


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
        schedule: skip sets that change as the stage generates (:mod:`litestage.plan.schedule`); None for a fixed set.
        exit: rule that may end the generation early, or None.
        tensors: the compensation's tensors by ``"mhsa.4"`` or ``"ffn.7"``: the skipped sub-layer; with ``block`` the
            first of each cut, with ``merged`` the kept feed-forward right before each cut.
    """

    skip: SkipSet = field(default_factory=SkipSet)
    phase: str = "both"
    compensation: str = "none"
    schedule: Mapping[str, Any] | None = None
    exit: ExitRule | None = None
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise LiteStageError(f"phase is {self.phase!r}; {did_you_mean(str(self.phase), PHASES)}")
        if self.compensation not in PER_CUT and not COMPENSATIONS.fullmatch(self.compensation):
            raise LiteStageError(
                f"compensation is {self.compensation!r}; it is one of none, scale, affine, lowrank:<rank>, linear, "
                "block, merged."
            )
        if self.schedule is not None:
            if self.compensation in PER_CUT:
                raise LiteStageError(
                    f"compensation {self.compensation!r} stands for the cuts of a fixed skip set; "
                    "leave the schedule out, or use scale, affine, lowrank:<rank> or linear."
                )
            object.__setattr__(self, "schedule", checked(self.schedule, self.skip))
        for key in self._compensated():
            if key not in self.tensors:
                raise LiteStageError(
                    f"compensation {self.compensation!r} has no tensor for {key.replace('.', ' ')}; "
                    "keep the plan's .safetensors file beside it."
                )
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    @property
    def skip_sets(self) -> list[SkipSet]:
        """The skip set and, under a schedule of steps, those that replace it, each containing the one before."""
        return [self.skip, *(skip for _, skip in step_sets(self.schedule))]

    def skip_at(self, token: int) -> SkipSet | None:
        """What is skipped when the prompt (``token`` 0) or the ``token``-th generated token, from 1, is run.

        None where an online rule decides it for each row.
        """
        if token == 0:
            return self.skip if self.phase == "both" else SkipSet()
        if self.schedule and "online" in self.schedule and token > self.schedule["online"]["observe"]:
            return None
        reached = [skip for start, skip in step_sets(self.schedule) if start <= token]
        return reached[-1] if reached else self.skip

    def _compensated(self) -> list[str]:
        """Keys of the tensors that the compensation cannot do without."""
        if self.compensation == "none":
            return []
        if self.compensation == "block":
            names = [cut[0] for cut in self.skip.cuts]
        elif self.compensation == "merged":
            names = [_feed_forward_before(cut[0]) for cut in self.skip.cuts]
        else:
            names = self.skip_sets[-1].names
        return [f"{kind}.{layer}" for kind, layer in names]

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


def _feed_forward_before(first: tuple[str, int]) -> tuple[str, int]:
    kind, layer = first
    if kind != "mhsa" or layer == 0:
        raise LiteStageError(
            f"compensation 'merged' goes into the feed-forward before a cut, but {kind} {layer} begins one; "
            "begin cuts with the attention of layer 1 or later."
        )
    return "ffn", layer - 1


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
                for layer in getattr(stage.skip_sets[-1], kind):
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
