"""Whole token sequences through the decoder at once, nothing generated: what scores, importance and fidelity run."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from litestage.decoder.decoder import Path, Step
from litestage.engine.attention import SHARED
from litestage.engine.cache import KVCache
from litestage.engine.layer_schedule import LayerSchedule
from litestage.engine.runner import HostRunner
from litestage.plan import StagePlan

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of what follows it; neither is empty."""


class TokenSequences:
    """Sequences side by side, each in a lane of its own, as far as they have been read.

    Attributes:
        stream: the residual stream before the first sub-layer, [sequences, longest, width], of the tokens read last.
        valid: which of them are no padding, [sequences, longest].
    """

    def __init__(self, runner: HostRunner, sequences: Sequence[Sequence[int]]) -> None:
        self._decoder, self._lengths = runner.decoder, [0] * len(sequences)
        self._cache = KVCache(runner.lean, len(sequences), max(map(len, sequences)), runner.decoder.device)
        self.read(sequences)

    def read(self, tokens: Sequence[Sequence[int]]) -> None:
        """Goes on with these tokens of each sequence."""
        new = [
            [(token, start + at, SHARED) for at, token in enumerate(of_sequence)]
            for start, of_sequence in zip(self._lengths, tokens, strict=True)
        ]
        self._context = self._cache.enter(range(len(new)), new, fresh=not any(self._lengths))
        self._new = [len(of_sequence) for of_sequence in tokens]
        self._lengths = [start + count for start, count in zip(self._lengths, self._new, strict=True)]
        self.stream = self._decoder.embed(self._context.ids).view(len(new), max(self._new), -1)
        counts = torch.tensor(self._new, device=self.stream.device)
        self.valid = torch.arange(max(self._new), device=self.stream.device) < counts[:, None]

    def after(self, step: Step, stream: Tensor) -> Tensor:
        """The stream [sequences, longest, width] after a sub-layer. Each may be run again and again."""
        return step(stream.reshape(-1, stream.shape[-1]), self._context).view(stream.shape)

    def run(self, path: Path) -> list[Tensor]:
        """The last stream of every sequence's tokens, each [tokens, width]."""
        self._decoder.work.forwarded(self.valid.numel())
        stream = self.stream
        for step in path:
            stream = self.after(step, stream)
        return [row[:count] for row, count in zip(stream, self._new, strict=True)]


def loglikelihood(runner: HostRunner, pairs: Sequence[Pair], plan: StagePlan) -> list[tuple[float, bool]]:
    """For each pair, the sum of the continuation's log-probabilities (natural logarithm) and whether it is greedy.

    With ``phase: decode`` the context runs at full depth and the continuation under the plan, as in generation; under a
    schedule each of its tokens runs through the sets in force at its number.
    """
    states = _scheduled(runner, pairs, plan) if plan.schedule else _together(runner, pairs, plan)
    scores = []
    for state, (_, ending) in zip(states, pairs, strict=True):
        logits = runner.lean.logits(state)  # [continuation, vocabulary]
        target = torch.tensor(ending, device=logits.device)
        chosen = logits.log_softmax(dim=-1).gather(1, target[:, None]).sum()
        scores.append((float(chosen), bool((logits.argmax(dim=-1) == target).all())))
    return scores


def _together(runner: HostRunner, pairs: Sequence[Pair], plan: StagePlan) -> list[Tensor]:
    """The streams [continuation, width] from which each pair's continuation is predicted, all pairs in one batch."""
    if plan.phase == "both":
        streams = TokenSequences(runner, [[*context, *ending[:-1]] for context, ending in pairs]).run(
            runner.path(plan, "prefill")
        )
    else:
        sequences = TokenSequences(runner, [context for context, _ in pairs])
        contexts = sequences.run(runner.path(plan, "prefill"))
        sequences.read([ending for _, ending in pairs])
        endings = sequences.run(runner.path(plan, "decode"))
        streams = [torch.cat(both) for both in zip(contexts, endings, strict=True)]
    return [stream[len(context) - 1 :][: len(ending)] for stream, (context, ending) in zip(streams, pairs, strict=True)]


def _scheduled(runner: HostRunner, pairs: Sequence[Pair], plan: StagePlan) -> list[Tensor]:
    """The same, one pair at a time: the context, then one pass for every stretch of tokens that share their sets."""
    layers, states = LayerSchedule(runner.decoder, plan, runner.path, runner.lean.sublayers), []
    for row, (context, ending) in enumerate(pairs):
        sequence = TokenSequences(runner, [context])
        streams = [sequence.run(layers.prefill)[0][-1:]]
        done = 0
        while done < len(ending) - 1:
            until = layers.unchanged_until(done + 1)
            part = ending[done : len(ending) - 1 if until is None else min(until, len(ending) - 1)]
            sequence.read([part])
            streams += sequence.run(layers.path([row], done + 1))
            done += len(part)
        states.append(torch.cat(streams))
    return states
