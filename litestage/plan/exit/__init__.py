"""Exit rules: when a stage's generation is cut short. Adding one is a file here and a line in ``EXIT_RULES``."""

from litestage.plan.exit.by_stage import ByStage
from litestage.plan.exit.confidence import Confidence
from litestage.plan.exit.convergence import Convergence
from litestage.plan.exit.deepconf import DeepConf
from litestage.plan.exit.entropy import Entropy
from litestage.plan.exit.margin import Margin
from litestage.plan.exit.relative_drop import RelativeDrop
from litestage.plan.exit.repetition import Repetition
from litestage.plan.exit.rule import ExitRule, Seen, Steps, exit_step
from litestage.plan.exit.sentence_end import SentenceEnd

EXIT_RULES: dict[str, type[ExitRule]] = {
    "confidence": Confidence,
    "convergence": Convergence,
    "deepconf": DeepConf,
    "entropy": Entropy,
    "margin": Margin,
    "relative_drop": RelativeDrop,
    "repetition": Repetition,
    "sentence_end": SentenceEnd,
    "by_stage": ByStage,
}

__all__ = ["EXIT_RULES", "ByStage", "Confidence", "ExitRule", "Seen", "Steps", "exit_step"]
