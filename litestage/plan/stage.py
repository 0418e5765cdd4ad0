"""One stage's part of a plan: what it skips, what stands in for it, and when the stage's generation is cut short."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from litestage.errors import LiteStageError, one_of
from litestage.plan.exit import ByStage, ExitRule
from litestage.plan.schedule import checked, step_sets
from litestage.plan.skip import SkipSet, SubLayerName

if TYPE_CHECKING:
    import torch

    from litestage.plan.draft import Draft

PHASES = ("both", "decode")
COMPENSATIONS = re.compile(r"none|scale|affine|lowrank:[1-9]\d*|linear")
"""Forms with one tensor for every skipped sub-layer."""
PER_CUT = ("block", "merged")
"""Forms with one tensor for a whole run of neighbouring skipped sub-layers, a cut."""
CHANGED = ("merged", "tuned")
"""Forms whose tensors change the output projections of feed-forwards that stay."""


@dataclass(frozen=True, eq=False)
class StagePlan:
    """What the engine does differently from full depth in one stage. Equal where all of that is, tensors included.

    Attributes:
        skip: the sub-layers left out.
        phase: ``both`` skips in prefill and decode; ``decode`` runs the prompt at full depth.
        compensation: what stands in for a skipped sub-layer's update (``none``: nothing).
        schedule: skip sets that change as the stage generates (:mod:`litestage.plan.schedule`); None for a fixed set.
        exit: rule that may end the generation early, or None.
        draft: tokens guessed and verified together; greedy decoding writes the same, sooner or later. None for none.
        tensors: the compensation's tensors by ``"mhsa.4"`` or ``"ffn.7"``: the skipped sub-layer; with ``block`` the
            first of each cut, with ``merged`` the kept feed-forward right before each cut, with ``tuned`` any kept
            feed-forwards, whose output projections [inner, width] they are.
    """

    skip: SkipSet = field(default_factory=SkipSet)
    phase: str = "both"
    compensation: str = "none"
    schedule: Mapping[str, Any] | None = None
    exit: ExitRule | None = None
    draft: Draft | None = None
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        one_of("phase", self.phase, PHASES)
        if self.compensation not in (*PER_CUT, *CHANGED) and not COMPENSATIONS.fullmatch(self.compensation):
            raise LiteStageError(
                f"compensation is {self.compensation!r}; it is one of none, scale, affine, lowrank:<rank>, linear, "
                "block, merged, tuned."
            )
        if isinstance(self.exit, ByStage):
            raise LiteStageError("exit rule 'by_stage' is of a whole plan; give this stage the rule that it has in it.")
        if self.schedule is not None:
            if self.compensation in (*PER_CUT, *CHANGED):
                raise LiteStageError(
                    f"compensation {self.compensation!r} goes with a fixed skip set; "
                    "leave the schedule out, or use scale, affine, lowrank:<rank> or linear."
                )
            if self.exit is not None and self.exit.on_trial:
                raise LiteStageError(
                    f"exit rule {self.exit.rule!r} does not go with a schedule; leave one of both out."
                )
            if self.draft is not None:
                raise LiteStageError("A stage with a schedule verifies no draft; leave one of both out.")
            object.__setattr__(self, "schedule", checked(self.schedule, self.skip))
        for key in self._compensated():
            if key not in self.tensors:
                raise LiteStageError(
                    f"compensation {self.compensation!r} has no tensor for {key.replace('.', ' ')}; "
                    "keep the plan's .safetensors file beside it."
                )
        object.__setattr__(self, "tensors", MappingProxyType(dict(self.tensors)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StagePlan):
            return NotImplemented
        return (self.computation, self.exit, self.draft) == (other.computation, other.exit, other.draft)

    def __hash__(self) -> int:
        return hash((json.dumps(self.computation, sort_keys=True), self.exit))

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

    def rows_of_tensors(self, width: int) -> int | None:
        """How many rows of a model's ``width`` each tensor has; 0: any number of them, None: it has none."""
        form, _, rank = self.compensation.partition(":")
        square = {"block": width, "merged": width, "linear": width + 1, "affine": 2, "tuned": 0}
        return 2 * int(rank) + 1 if rank else square.get(form)

    def _compensated(self) -> list[str]:
        """Keys of the tensors that the compensation cannot do without."""
        if self.compensation in ("none", "tuned"):
            return []
        names = stand_ins(self.skip_sets[-1], self.compensation)
        if self.compensation == "merged":
            names = [_feed_forward_before(cut[0]) for cut in self.skip.cuts]
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
            "skip": self.skip.to_dict(),
            "phase": self.phase,
            "compensation": self.compensation,
            "compensation_digest": self.compensation_digest,
            "schedule": dict(self.schedule) if self.schedule else None,
        }


def stand_ins(skip: SkipSet, form: str) -> list[SubLayerName]:
    """Where stand-ins of a form are: at every skipped sub-layer, with ``block`` at the first of each cut."""
    return [cut[0] for cut in skip.cuts] if form == "block" else skip.names


def _feed_forward_before(first: SubLayerName) -> SubLayerName:
    kind, layer = first
    if kind != "mhsa" or layer == 0:
        raise LiteStageError(
            f"compensation 'merged' goes into the feed-forward before a cut, but {kind} {layer} begins one; "
            "begin cuts with the attention of layer 1 or later."
        )
    return "ffn", layer - 1
