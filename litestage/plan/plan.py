"""The plan: immutable, hashed by what it does, validated against a model and a pipeline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from logging import getLogger
from types import MappingProxyType
from typing import Any

from litestage.errors import LiteStageError, known_stages
from litestage.plan.certificate import Certificate
from litestage.plan.draft import Draft
from litestage.plan.exit import ExitRule
from litestage.plan.exit.by_stage import ByStage
from litestage.plan.skip import SkipSet
from litestage.plan.stage import StagePlan

SCHEMA = "litestage.plan/1"


@dataclass(frozen=True)
class Plan:
    """Per stage what is skipped and when it ends. A stage that is not named runs at full depth.

    Attributes:
        stages: stage name to its plan; a task without stages runs under the name ``default``.
        model: ``{name, revision, layers, fingerprint}`` of the model it was made for, if known.
        pipeline: ``{name, hash}`` of the pipeline it was made for, if known; ``weights: int8`` of the model and
            ``chat_template: true`` of the pipeline where they were.
        provenance: how it came about; not part of the hash.
        certificate: the bound it was shown to keep, if it was; not part of the hash either, which it names.
        prefix_cache: whether a stage begins, by the clock too, with the keys and values that the one before left, where
            both run the same sub-layers (:mod:`litestage.engine.prefix_cache`). In float32 it changes no text.
    """

    stages: Mapping[str, StagePlan]
    model: Mapping[str, Any] | None = None
    pipeline: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)
    certificate: Certificate | None = field(default=None, compare=False)
    prefix_cache: bool = False

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
            name: {
                **stage.computation,
                "exit": stage.exit.to_dict() if stage.exit else None,
                **({"draft": stage.draft.settings} if stage.draft else {}),
            }
            for name, stage in sorted(self.stages.items())
        }
        content = {"prefix_cache": content} if self.prefix_cache else content
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def answers_hash(self) -> str:
        """The hash without drafts and prefix cache: of what decides the answers. It is what a certificate names."""
        return replace(self.with_drafts({}), prefix_cache=False).hash if self.drafts or self.prefix_cache else self.hash

    @property
    def drafts(self) -> dict[str, Draft]:
        """By stage, its draft, where it has one."""
        return {name: stage.draft for name, stage in self.stages.items() if stage.draft}

    def certified_on(self, task: str) -> Certificate | None:
        """The plan's certificate, if it is of this task: of another it says nothing."""
        return self.certificate if self.certificate and self.certificate.task == task else None

    def certified_under(self, here: Plan) -> Plan:
        """The plan, without its certificate, which is said, where that is of other weights or prompts than ``here``."""
        for what, own, now in (
            ("weights in 8 bits", *((plan.model or {}).get("weights") for plan in (self, here))),
            ("the chat template", *((plan.pipeline or {}).get("chat_template") for plan in (self, here))),
        ):
            if self.certificate and own != now:
                getLogger(__name__).warning(
                    "The plan's certificate is left out: it is of answers with%s %s.", "" if own else "out", what
                )
                return replace(self, certificate=None)
        return self

    def with_exit(self, rule: ExitRule | None, stages: Iterable[str] = ()) -> Plan:
        """The same plan with ``rule`` in each of its stages, and in ``stages`` that it does not name.

        A certificate is of one plan: another than this has none.
        """
        names = dict.fromkeys((*self.stages, *stages))
        if isinstance(rule, ByStage):
            known_stages("exit", dict(rule.rules), names)
        made = replace(self, stages={name: replace(self[name], exit=rule.of(name) if rule else None) for name in names})
        return made if made.answers_hash == self.answers_hash else replace(made, certificate=None)

    def with_drafts(self, drafts: Mapping[str, Draft | None]) -> Plan:
        """The same plan with these drafts, by stage, in the place of its own: its answers and certificate stay."""
        names = dict.fromkeys((*self.stages, *drafts))
        return replace(self, stages={name: replace(self[name], draft=drafts.get(name)) for name in names})

    def validate(
        self,
        *,
        layers: int,
        width: int | None = None,
        fingerprint: str | None = None,
        stages: Iterable[str] | None = None,
        pipeline_hash: str | None = None,
    ) -> None:
        """Raises LiteStageError, saying what differs, when the plan does not fit a model or pipeline."""
        _check_model(self.model or {}, layers, fingerprint)
        _check_pipeline(self.pipeline or {}, pipeline_hash)
        _check_layers(self.stages, layers)
        if width is not None:
            _check_tensors(self.stages, width)
        _check_exits(self.stages)
        if stages is not None:
            _check_stages(self.stages, tuple(stages))


def _check_model(made_for: Mapping[str, Any], layers: int, fingerprint: str | None) -> None:
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


def _check_pipeline(made_for: Mapping[str, Any], pipeline_hash: str | None) -> None:
    if pipeline_hash and made_for.get("hash") not in (None, pipeline_hash):
        raise LiteStageError(
            f"The plan was made for another pipeline ({made_for.get('name')}, hash {made_for['hash']}; "
            f"this one has {pipeline_hash}); search a plan for this one."
        )


def _check_layers(stages: Mapping[str, StagePlan], layers: int) -> None:
    for name, stage in stages.items():
        drafts = stage.draft.skip if stage.draft else SkipSet()
        for does, skip in (("skips", stage.skip_sets[-1]), ("drafts without", drafts)):  # [-1] is the largest
            for kind, layer in skip.names:
                if layer >= layers:
                    raise LiteStageError(
                        f"The plan {does} {kind} {layer} in stage {name!r}, but the model's layers are "
                        f"0 to {layers - 1}; correct the plan."
                    )


def _check_tensors(stages: Mapping[str, StagePlan], width: int) -> None:
    for name, stage in stages.items():
        for key, tensor in stage.tensors.items():
            shape = tuple(getattr(tensor, "shape", ("no tensor",)))
            rows = stage.rows_of_tensors(width)
            whole = len(shape) == 2 and shape[1] == width and rows in (0, shape[0])
            if not (shape in ((), (1,), (width,)) if rows is None else whole):
                raise LiteStageError(
                    f"The plan's tensor for {key.replace('.', ' ')} in stage {name!r} has the shape {list(shape)}, "
                    f"not that of compensation {stage.compensation!r} in a model of width {width}; correct the plan, "
                    "or search it again."
                )


def _check_exits(stages: Mapping[str, StagePlan]) -> None:
    for name, stage in stages.items():
        if stage.exit is not None and stage.exit.lacks:
            raise LiteStageError(
                f"The exit rule {stage.exit.rule!r} of stage {name!r} has no {stage.exit.lacks}; give it one, or "
                "use it as +exit, which calibrates it."
            )


def _check_stages(stages: Mapping[str, StagePlan], known: tuple[str, ...]) -> None:
    if known == ("default",) and "default" not in stages:
        raise LiteStageError(
            f"The plan has no stage 'default' (it names {', '.join(stages) or 'none'}), which a task "
            "without stages runs under; add one or use a shorthand such as uniform:4."
        )
    known_stages("The plan", (name for name in stages if name != "default"), known)
    if stages and not set(stages) & set(known) and known != ("default",):
        raise LiteStageError(
            f"The plan names only the stage 'default', and this pipeline's are {', '.join(known)}; name those."
        )
