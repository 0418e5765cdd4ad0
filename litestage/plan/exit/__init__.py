"""Exit rules: when a stage's generation is cut short. Adding one is a file here, which is found by itself."""

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules

from litestage.errors import LiteStageError
from litestage.plan.exit.by_stage import ByStage
from litestage.plan.exit.confidence import Confidence
from litestage.plan.exit.rule import ExitRule, Seen, Steps, Uncut, exit_step

for _file in iter_modules(__path__, f"{__name__}."):
    import_module(_file.name)


def by_name(rules: Iterable[type[ExitRule]]) -> dict[str, type[ExitRule]]:
    """The rules by their names. Raises LiteStageError where two have one name: one would run in the other's place."""
    named: dict[str, type[ExitRule]] = {}
    for rule in rules:
        if (other := named.setdefault(rule.rule, rule)) is not rule:
            raise LiteStageError(
                f"The exit rules of {other.__module__} and {rule.__module__} are both called {rule.rule!r}; rename one."
            )
    return named


EXIT_RULES = {name: rule for name, rule in by_name(ExitRule.__subclasses__()).items() if rule is not Uncut}
"""By name, all that a plan may have."""
SIMPLE_RULES = {name: rule for name, rule in EXIT_RULES.items() if rule is not ByStage}
"""By name, the rules that are the same in every stage: those that a search may try."""

__all__ = ["EXIT_RULES", "SIMPLE_RULES", "ByStage", "Confidence", "ExitRule", "Seen", "Steps", "by_name", "exit_step"]
