"""Cosine importance of every sub-layer over the prefills of each stage (LiteStage, AdaSkip).

For sub-layer ``u`` with residual stream ``x`` before it and ``y`` after: the mean over prompt tokens of
``cos(x, y)``, then the mean over prompts. High means redundant: skipped first. Beside it AdaSkip's norm ratio
``|y| / |x|`` (Frobenius, over a prompt), the factor by which it scales the stream in place of a skipped sub-layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litestage.engine import Engine
from litestage.errors import LiteStageError
from litestage.plan.skip import SubLayerName
from litestage.runner import Contestant
from litestage.stages import Question
from litestage.trace import Trace


@dataclass(frozen=True)
class Importance:
    """Per stage and sub-layer: mean cosine before/after, and norm ratio after/before."""

    cosine: Mapping[str, Mapping[SubLayerName, float]]
    norm_ratio: Mapping[str, Mapping[SubLayerName, float]]
    questions: int

    def ranking(self, stage: str | None = None) -> list[SubLayerName]:
        """Sub-layers in the order in which they are skipped: of one stage, or (None) by the mean over stages.

        The paper's overview accumulates the scores over the stages' prefills, which reads as one global ranking.
        """
        stages = list(self.cosine) if stage is None else [stage]
        names = list(self.cosine[stages[0]])
        return sorted(names, key=lambda name: -sum(self.cosine[s][name] for s in stages) / len(stages))

    def to_dict(self) -> dict[str, Any]:
        def plain(table: Mapping[str, Mapping[SubLayerName, float]]) -> dict[str, dict[str, float]]:
            return {stage: {f"{kind}.{layer}": v for (kind, layer), v in row.items()} for stage, row in table.items()}

        return {"cosine": plain(self.cosine), "norm_ratio": plain(self.norm_ratio), "questions": self.questions}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Importance:
        def named(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[SubLayerName, float]]:
            return {stage: {_name(key): value for key, value in row.items()} for stage, row in table.items()}

        return cls(named(raw["cosine"]), named(raw["norm_ratio"]), raw["questions"])


def _name(key: str) -> SubLayerName:
    kind, layer = key.split(".")
    return kind, int(layer)


def measure_importance(
    full: Contestant,
    questions: Sequence[Question],
    traces: Sequence[Trace],
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda stages: None,
) -> Importance:
    """Importance over the stages' prompts that full depth met on ``questions`` (``traces`` are its answers).

    Args:
        advance: told of every stage that is done.

    Raises:
        LiteStageError: a stage none of whose prompts fits the context, or a residual stream that is no number.
    """
    engine = full.engine.engine
    names = engine.decoder.sublayers
    cosine, ratio = {}, {}
    for stage, sequences in full.sequences(questions, traces).items():
        fitting = sorted((row for row, _ in sequences if len(row) <= engine.decoder.context_length), key=len)
        if not fitting:
            raise LiteStageError(
                f"No calibration prompt of stage {stage!r} fits the model's context of "
                f"{engine.decoder.context_length} tokens; use a shorter pipeline."
            )
        sums = torch.zeros(2, len(names), dtype=torch.float64)
        for at in range(0, len(fitting), batch_size):
            sums += _observe(engine, fitting[at : at + batch_size])
        means = sums / len(fitting)
        if not means.isfinite().all():
            kind, layer = names[int((~means.isfinite()).any(dim=0).nonzero()[0])]
            raise LiteStageError(
                f"The residual stream holds what is no number at {kind} {layer}, on the prompts of stage {stage!r}, so "
                "nothing can be ranked; check the weights, or take another dtype."
            )
        cosine[stage], ratio[stage] = (dict(zip(names, row, strict=True)) for row in means.tolist())
        advance(1)
    return Importance(cosine, ratio, len(questions))


@torch.inference_mode()
def _observe(engine: Engine, prompts: Sequence[Sequence[int]]) -> Tensor:
    """Cosines and norm ratios [2, sub-layers], summed over the prompts, of one full-depth prefill."""
    sequences = engine.sequences(prompts)
    stream, valid = sequences.stream, sequences.valid
    counts, rows = valid.sum(dim=1), []
    for step in engine.lean.sublayers.values():
        after = sequences.after(step, stream)
        x, y = stream.float(), after.float()
        cosine = (torch.cosine_similarity(x, y, dim=-1) * valid).sum(dim=1) / counts
        weight = valid[..., None]
        ratio = (y * weight).flatten(1).norm(dim=1) / (x * weight).flatten(1).norm(dim=1)
        rows.append(torch.stack([cosine.double().sum(), ratio.double().sum()]))
        stream = after
    return torch.stack(rows, dim=1).cpu()
