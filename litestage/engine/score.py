"""Log-likelihoods: how probable given continuations are under a plan. One parallel pass, no generation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from litestage.engine.cache import KVCache
from litestage.engine.prefix import padded
from litestage.engine.schedule import Course
from litestage.plan import StagePlan

if TYPE_CHECKING:
    from litestage.engine.engine import Engine

Pair = tuple[Sequence[int], Sequence[int]]
"""Token ids of a context and of what follows it; neither is empty."""


def loglikelihood(engine: Engine, pairs: Sequence[Pair], plan: StagePlan) -> list[tuple[float, bool]]:
    """For each pair, the sum of the continuation's log-probabilities (natural logarithm) and whether it is greedy.

    With ``phase: decode`` the context runs at full depth and the continuation under the plan, as in generation; under a
    schedule each of its tokens runs through the sets in force at its number.
    """
    states = _scheduled(engine, pairs, plan) if plan.schedule else _together(engine, pairs, plan)
    scores = []
    for state, (_, ending) in zip(states, pairs, strict=True):
        logits = engine.decoder.logits(state)  # [continuation, vocabulary]
        target = torch.tensor(ending, device=logits.device)
        chosen = logits.log_softmax(dim=-1).gather(1, target[:, None]).sum()
        scores.append((float(chosen), bool((logits.argmax(dim=-1) == target).all())))
    return scores


def most_likely(engine: Engine, sequences: Sequence[Sequence[int]], plan: StagePlan) -> int | None:
    """Which of several token sequences is the most probable, given what all of them begin with; the first of equals.

    Where they part by one token each, that is a comparison of next-token logits after one prefill. None where a score
    is no number.
    """
    room = min(map(len, sequences)) - 1  # each has a token of its own, be it that of all
    columns = zip(*(sequence[:room] for sequence in sequences), strict=True)
    common = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    context, endings = sequences[0][:common], [sequence[common:] for sequence in sequences]
    if all(len(ending) == 1 for ending in endings):
        logits = engine.next_token_logits(context, plan)
        scores = logits[[ending[0] for ending in endings]].tolist()
    else:
        scores = [score for score, _ in loglikelihood(engine, [(context, ending) for ending in endings], plan)]
    return None if any(map(math.isnan, scores)) else scores.index(max(scores))


def _together(engine: Engine, pairs: Sequence[Pair], plan: StagePlan) -> list[Tensor]:
    """The streams [continuation, width] from which each pair's continuation is predicted, all pairs in one batch."""
    decoder, device = engine.decoder, engine.decoder.device
    if plan.phase == "both":
        parts = [[[*context, *ending[:-1]] for context, ending in pairs]]
    else:
        parts = [[list(context) for context, _ in pairs], [list(ending) for _, ending in pairs]]
    cache, streams, starts = KVCache(len(pairs), device), [], [0] * len(pairs)
    for part, phase in zip(parts, ("prefill", "decode"), strict=False):
        ids, positions, valid = padded(part, starts, device)
        stream = engine.plain.forward(ids, positions, cache, decoder.path(plan, phase), valid)
        streams.append([row[: len(tokens)] for row, tokens in zip(stream, part, strict=True)])
        starts = [start + len(tokens) for start, tokens in zip(starts, part, strict=True)]
    return [
        torch.cat([stream[row] for stream in streams])[len(context) - 1 :][: len(ending)]
        for row, (context, ending) in enumerate(pairs)
    ]


def _scheduled(engine: Engine, pairs: Sequence[Pair], plan: StagePlan) -> list[Tensor]:
    """The same, one pair at a time: the context, then one pass for every stretch of tokens that share their sets."""
    decoder, device = engine.decoder, engine.decoder.device
    course, states = Course(decoder, plan), []
    for row, (context, ending) in enumerate(pairs):
        cache = KVCache(1, device)
        ids, positions, _ = padded([context], [0], device)
        streams = [engine.plain.forward(ids, positions, cache, decoder.path(plan, "prefill"))[0, -1:]]
        done = 0
        while done < len(ending) - 1:
            until = course.unchanged_until(done + 1)
            part = ending[done : len(ending) - 1 if until is None else min(until, len(ending) - 1)]
            ids, positions, _ = padded([part], [len(context) + done], device)
            streams.append(engine.plain.forward(ids, positions, cache, course.path([row], done + 1))[0])
            done += len(part)
        states.append(torch.cat(streams))
    return states
