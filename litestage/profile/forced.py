"""Teacher forcing: how a stage's own full-depth outputs fare when sub-layers are left out. No generation needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litestage.engine import Engine
from litestage.errors import LiteStageError

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
        decoder: whose sub-layers are run.
        valid: which of the tokens are no padding, [rows, tokens].
        streams: the residual stream before every sub-layer, and after the last, of the run that was last kept.
    """

    @torch.inference_mode()
    def __init__(self, engine: Engine, sequences: Sequence[Sequenced]) -> None:
        decoder = self.decoder = engine.decoder
        self._sequences = engine.sequences([[*prompt, *output[:-1]] for prompt, output in sequences])
        self._steps = list(engine.lean.sublayers.values())
        self.valid = self._sequences.valid
        predicts = torch.zeros_like(self.valid)
        for row, (prompt, output) in enumerate(sequences):
            predicts[row, len(prompt) - 1 : len(prompt) - 1 + len(output)] = True
        self._predicts = predicts
        self._sequence = predicts.nonzero()[:, 0]  # of every prediction
        self._targets = torch.tensor([token for _, output in sequences for token in output], device=decoder.device)
        self.streams = [self._sequences.stream]
        for index in range(len(decoder.sublayers)):
            self.streams.append(self.step(index, self.streams[-1]))

    def step(self, index: int, stream: Tensor) -> Tensor:
        """The stream after sub-layer ``index``, which runs."""
        self.decoder.work.forwarded(self.valid.numel(), 1 / len(self._steps))
        return self._sequences.after(self._steps[index], stream)

    def predicting(self, stream: Tensor) -> Tensor:
        """The part of the last stream [rows, tokens, width] that predicts the outputs: [output tokens, width]."""
        return stream[self._predicts]

    def nll(self, stream: Tensor) -> float:
        """Negative log-likelihood of the outputs, nats per output token, from the last stream [rows, tokens, width]."""
        logits = self.decoder.logits(self.predicting(stream))
        return float(torch.nn.functional.cross_entropy(logits, self._targets))

    def harm(self, stream: Tensor) -> float:
        """The mean of :meth:`harms`."""
        return float(self.harms(stream).mean())

    def harms(self, stream: Tensor) -> Tensor:
        """By sequence: 1 if its output changes, plus the probability of not writing that output when sampling.

        The first is what matters (one wrong token in a hundred changes an answer, a mean over tokens hides it); the
        second tells sub-layers apart where no output changes. From 0 to 2, [sequences]; 2 where the logits are no
        numbers.
        """
        logits = self.decoder.logits(self.predicting(stream))
        nll = torch.nn.functional.cross_entropy(logits, self._targets, reduction="none")
        per_sequence = nll.new_zeros(len(self.valid)).index_add_(0, self._sequence, nll)
        return (self._changed(logits).float() + 1 - torch.exp(-per_sequence)).nan_to_num(nan=2.0)

    def _changed(self, logits: Tensor) -> Tensor:
        """Which sequences' greedy outputs would differ somewhere, [sequences], from the logits [output tokens, any].

        Where the largest logit agrees with the output at every step, greedy decoding writes just that output.
        """
        differs = (logits.argmax(dim=-1) != self._targets).long()
        return differs.new_zeros(len(self.valid)).index_add_(0, self._sequence, differs) > 0

    @torch.inference_mode()
    def after(self, skip: SkipSet, start: int = 0, streams: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Streams from before sub-layer ``start`` to the end, with ``skip`` left out.

        Args:
            streams: those of another run that is the same before ``start``; the kept ones unless given.
        """
        streams = [(self.streams if streams is None else streams)[start]]
        for index in range(start, len(self.decoder.sublayers)):
            skipped = self.decoder.sublayers[index] in skip
            streams.append(streams[-1] if skipped else self.step(index, streams[-1]))
        return streams

    def keep(self, streams: Sequence[Tensor], start: int = 0) -> None:
        """Makes these the kept streams from ``start`` on."""
        self.streams[start:] = streams


def stage_sequences(
    full: Contestant, questions: Sequence[Question], traces: Sequence[Trace]
) -> dict[str, list[Sequenced]]:
    """By stage, the prompts that full depth met on ``questions``, with the token ids it wrote.

    Raises:
        LiteStageError: a stage in which it wrote nothing at all, so that nothing can be measured there.
    """
    sequences = full.sequences(questions, traces)
    for stage_name, rows in sequences.items():
        if not any(output for _, output in rows):
            raise LiteStageError(_wrote_nothing(full, stage_name, traces))
    return sequences


def _wrote_nothing(full: Contestant, stage: str, traces: Sequence[Trace]) -> str:
    """Why there is nothing to measure in a stage, and what to do."""
    too_long, broken = sum(trace.too_long for trace in traces), sum(trace.non_finite for trace in traces)
    return (
        f"Full depth writes nothing in stage {stage!r} on the {len(traces)} calibration questions: {too_long} do not "
        f"fit the model's context of {full.engine.engine.decoder.context_length} tokens, {broken} meet logits that are "
        "no numbers; use a shorter pipeline, or check the weights."
    )


def drawn(sequences: Sequence[Sequenced], count: int, seed: int = 0) -> list[Sequenced]:
    """Up to ``count`` of them by lot; prompts without output are left out.

    By lot, because every n-th of a stage that fans out over four options may be the first option every time.
    """
    written = [sequence for sequence in sequences if sequence[1]]
    return Random(seed).sample(written, min(count, len(written)))


def about(sequences: Sequence[Sequenced], tokens: int, seed: int = 0) -> list[Sequenced]:
    """As many of them, by lot, as have about so many tokens, and at least eight where there are."""
    mean = fmean(len(prompt) + len(output) for prompt, output in sequences)
    return drawn(sequences, max(8, round(tokens / mean)), seed)


def pooled(sequences: Mapping[str, Sequence[Sequenced]], rows: int) -> list[Sequenced]:
    """Up to ``rows`` of every stage's sequences."""
    return [sequence for of_stage in sequences.values() for sequence in drawn(of_stage, rows)]
