"""A plan is data: per stage a skip set and an exit rule. The engine runs any plan; methods and search make them."""

from litestage.plan.certificate import Certificate
from litestage.plan.exit import ExitRule
from litestage.plan.file import load_plan, save_plan
from litestage.plan.plan import Plan
from litestage.plan.skip import SkipSet
from litestage.plan.stage import StagePlan

__all__ = ["Certificate", "ExitRule", "Plan", "SkipSet", "StagePlan", "load_plan", "save_plan"]
