"""Teacher forcing: how a stage's own full-depth outputs fare when sub-layers are left out. No generation needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litestage.engine import Engine
from litestage.engine.cache import KVCache
from litestage.engine.prefix import padded

if TYPE_CHECKING:
    from litestage.plan import SkipSet
    from litestage.runner import Contestant
    from litestage.stages import Question
    from litestage.trace import Trace

Sequenced = tuple[Sequence[int], Sequence[int]]
"""Token ids of a prompt and of what full depth wrote after it."""


class TeacherForced:
    """One batch of prompts with their full-depth outputs, run in parallel.

    Attributes:
        engine: whose decoder is run.
        streams: the residual stream before every sub-layer, and after the last, of the run that was last kept.
    """

    def __init__(self, engine: Engine, sequences: Sequence[Sequenced]) -> None:
        decoder = self.decoder = engine.decoder
        rows = [[*prompt, *output[:-1]] for prompt, output in sequences]
        ids, positions, self.valid = padded(rows, [0] * len(rows), decoder.device)
        stream, attending = engine.enter(ids, positions, KVCache(len(rows), decoder.device), self.valid)
        self._attending = replace(attending, cache=None)  # sub-layers are run again and again: nothing is kept
        predicts = torch.zeros_like(self.valid)
        for row, (prompt, output) in enumerate(sequences):
            predicts[row, len(prompt) - 1 : len(prompt) - 1 + len(output)] = True
        self._predicts = predicts
        self._targets = torch.tensor([token for _, output in sequences for token in output], device=decoder.device)
        self.streams = [stream]
        for index in range(len(decoder.sublayers)):
            self.streams.append(self.step(index, self.streams[-1]))

    def step(self, index: int, stream: Tensor) -> Tensor:
        """The stream after sub-layer ``index``, which runs."""
        return stream + self.decoder.sublayers[index].update(stream, self._attending)

    def predicting(self, stream: Tensor) -> Tensor:
        """The part of the last stream [rows, tokens, width] that predicts the outputs: [output tokens, width]."""
        return stream[self._predicts]

    def nll(self, stream: Tensor) -> float:
        """Negative log-likelihood of the outputs, nats per output token, from the last stream [rows, tokens, width]."""
        logits = self.decoder.logits(self.predicting(stream))
        return float(torch.nn.functional.cross_entropy(logits, self._targets))

    def after(self, skip: SkipSet, start: int = 0) -> list[Tensor]:
        """Streams from before sub-layer ``start`` (as kept) to the end, with ``skip`` left out."""
        streams = [self.streams[start]]
        for index in range(start, len(self.decoder.sublayers)):
            skipped = self.decoder.sublayers[index].name in skip
            streams.append(streams[-1] if skipped else self.step(index, streams[-1]))
        return streams

    def keep(self, streams: Sequence[Tensor], start: int = 0) -> None:
        """Makes these the kept streams from ``start`` on."""
        self.streams[start:] = streams


def stage_sequences(
    full: Contestant, questions: Sequence[Question], traces: Sequence[Trace]
) -> dict[str, list[Sequenced]]:
    """By stage, the prompts that full depth met on ``questions``, with the token ids it wrote."""
    sequences: dict[str, list[Sequenced]] = {stage.name: [] for stage in full.pipeline.stages}
    for question, trace in zip(questions, traces, strict=True):
        outputs = full.outputs(question, trace)
        for stage, prompts in full.prompts(question, trace).items():
            sequences[stage] += zip(prompts, outputs[stage], strict=True)
    return sequences


def pooled(sequences: Mapping[str, Sequence[Sequenced]], rows: int) -> list[Sequenced]:
    """Up to ``rows`` of every stage's sequences, spread over all its questions; prompts without output are left out."""
    chosen: list[Sequenced] = []
    for of_stage in sequences.values():
        written = [sequence for sequence in of_stage if sequence[1]]
        count = min(rows, len(written))
        chosen += [written[index * len(written) // count] for index in range(count)]
    return chosen
