"""Another rule, or another threshold, in every stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from litestage.errors import LiteStageError
from litestage.plan.exit.rule import ExitRule, Seen


@dataclass(frozen=True)
class ByStage(ExitRule):
    """What :meth:`litestage.plan.Plan.with_exit` gives each stage; one that is not named has no rule.

    Attributes:
        stages: (name, rule) of each, or as a plan's file has them: a mapping of names to rules as plain data.
    """

    rule: str = "by_stage"
    stages: tuple[tuple[str, ExitRule], ...] | Mapping[str, Mapping[str, Any]] = field(default=())

    def __post_init__(self) -> None:
        given = self.stages
        if isinstance(given, tuple):
            return
        if not isinstance(given, Mapping) or not all(isinstance(rule, Mapping) for rule in given.values()):
            raise LiteStageError(f"exit stages is {given!r:.80}; it maps stages to rules, {{analyze: {{rule: ...}}}}.")
        rules = [(str(name), {str(key): value for key, value in rule.items()}) for name, rule in given.items()]
        object.__setattr__(self, "stages", tuple((name, ExitRule(**rule)) for name, rule in rules))

    def of(self, stage: str) -> ExitRule | None:
        return dict(self.rules).get(stage)

    @property
    def rules(self) -> tuple[tuple[str, ExitRule], ...]:
        """(name, rule) of each stage that has one."""
        assert isinstance(self.stages, tuple)
        return self.stages

    @property
    def lacks(self) -> str:
        return next((rule.lacks for _, rule in self.rules if rule.lacks), "")

    def to_dict(self) -> dict[str, Any]:
        return {"rule": self.rule, "stages": {name: rule.to_dict() for name, rule in self.rules}}

    def stops(self, seen: Seen) -> bool:
        raise LiteStageError("The exit rule 'by_stage' is of a plan, not of a stage; give each stage its own rule.")

    def __str__(self) -> str:
        return "; ".join(f"{name} {rule}" for name, rule in self.rules) or "none"
