"""Exit rules: when a stage's generation is cut short. Adding one is a file here, which is found by itself."""

from importlib import import_module
from pkgutil import iter_modules

from litestage.plan.exit.by_stage import ByStage
from litestage.plan.exit.confidence import Confidence
from litestage.plan.exit.rule import ExitRule, Seen, Steps, Uncut, exit_step

for _file in iter_modules(__path__, f"{__name__}."):
    import_module(_file.name)

SIMPLE_RULES: dict[str, type[ExitRule]] = {
    rule.rule: rule for rule in ExitRule.__subclasses__() if rule not in (Uncut, ByStage)
}
"""By name, the rules that are the same in every stage: those that a search may try."""
EXIT_RULES: dict[str, type[ExitRule]] = {**SIMPLE_RULES, ByStage.rule: ByStage}
"""By name, all that a plan may have."""

__all__ = ["EXIT_RULES", "SIMPLE_RULES", "ByStage", "Confidence", "ExitRule", "Seen", "Steps", "exit_step"]
