"""What the report draws: one file per picture, each from the files of a run folder."""

from litestage.report.pictures.accuracy import accuracy_against_latency
from litestage.report.pictures.budgets import over_budgets
from litestage.report.pictures.confidence import along_the_generation
from litestage.report.pictures.importance import importance_by_layer
from litestage.report.pictures.search import search_pictures
from litestage.report.pictures.stages import by_stage

__all__ = [
    "accuracy_against_latency",
    "along_the_generation",
    "by_stage",
    "importance_by_layer",
    "over_budgets",
    "search_pictures",
]
