"""Log-likelihoods: how probable given continuations are under a plan. One parallel pass, no generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from litestage.engine.cache import KVCache
from litestage.engine.prefix import padded
from litestage.plan import StagePlan

if TYPE_CHECKING:
    from litestage.engine.engine import Engine

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of what follows it; neither is empty."""


def loglikelihood(engine: Engine, pairs: Sequence[Pair], plan: StagePlan) -> list[tuple[float, bool]]:
    """For each pair, the sum of the continuation's log-probabilities (natural logarithm) and whether it is greedy.

    With ``phase: decode`` the context runs at full depth and the continuation under the plan, as in generation.
    """
    decoder, device = engine.decoder, engine.decoder.device
    if plan.phase == "both":
        parts = [[[*context, *ending[:-1]] for context, ending in pairs]]
    else:
        parts = [[list(context) for context, _ in pairs], [list(ending) for _, ending in pairs]]
    cache, streams, starts = KVCache(len(pairs), device), [], [0] * len(pairs)
    for part, phase in zip(parts, ("prefill", "decode"), strict=False):
        ids, positions, valid = padded(part, starts, device)
        stream = engine.forward(ids, positions, cache, decoder.path(plan, phase), valid)
        streams.append([row[: len(tokens)] for row, tokens in zip(stream, part, strict=True)])
        starts = [start + len(tokens) for start, tokens in zip(starts, part, strict=True)]
    scores = []
    for row, (context, ending) in enumerate(pairs):
        states = torch.cat([stream[row] for stream in streams])[len(context) - 1 :][: len(ending)]
        logits = decoder.logits(states)  # [continuation, vocabulary]
        target = torch.tensor(ending, device=device)
        chosen = logits.log_softmax(dim=-1).gather(1, target[:, None]).sum()
        scores.append((float(chosen), bool((logits.argmax(dim=-1) == target).all())))
    return scores
