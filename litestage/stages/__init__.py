"""What a question passes through. Pure text: this room knows no model and no tokens."""

from litestage.stages.file import load_pipeline
from litestage.stages.pipeline import Pipeline, Stage
from litestage.stages.prompt import Prompt
from litestage.stages.question import Question

__all__ = ["Pipeline", "Prompt", "Question", "Stage", "load_pipeline"]
