"""The engine: requests in, generations out, by the fast path or the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder
from litestage.decoder.lean import LeanDecoder
from litestage.engine.carry import Carry
from litestage.engine.compiled import COMPILING, unable
from litestage.engine.fast import FastPath
from litestage.engine.plain import PlainPath
from litestage.engine.rows import Row, Sampler
from litestage.engine.score import Pair, loglikelihood, most_likely
from litestage.engine.types import ENGINES, Decoding, Detokenise, Generation, Request
from litestage.errors import LiteStageError, did_you_mean
from litestage.plan import StagePlan


@dataclass(frozen=True)
class Batch:
    """Generations in the order of their requests, and the seconds the whole batch took."""

    generations: list[Generation]
    prefill_s: float
    decode_s: float


class Engine:
    """Generates with a decoder under a stage's plan.

    With nothing skipped and in float32, tokens equal ``transformers`` greedy ``generate`` at batch 1, whatever batch
    and padding a row runs in.

    Args:
        model: a Hugging Face causal LM of a supported family, in evaluation mode.
        tokenizer: its tokenizer.
        path: ``fast``, which leaves to the plain path what it cannot run (:meth:`plain_because`), ``plain``, or
            ``static``: ``fast`` as it is on CUDA, in static steps where they can (:meth:`stepwise_because`).
        compiling: whether static steps are compiled: ``auto`` (on CUDA), ``on`` or ``off``.
    """

    def __init__(self, model: Any, tokenizer: Any, path: str = "fast", compiling: str = "auto") -> None:
        self.decoder = Decoder(model)
        self.plain = PlainPath(self.decoder)
        if path not in ENGINES:
            raise LiteStageError(f"engine.path is {path!r}; {did_you_mean(path, ENGINES)}")
        if compiling not in COMPILING:
            raise LiteStageError(f"engine.compile is {compiling!r}; {did_you_mean(compiling, COMPILING)}")
        self._compiling = compiling
        self.path = "static" if path == "fast" and self.decoder.device.type == "cuda" else path
        compiles = self.path == "static" and unable(self.decoder, compiling) is None
        self.name = ENGINES[self.path] + "+compiled" * compiles
        self.tokenizer = tokenizer
        self._alone: dict[int, str] = {}  # texts of single tokens
        self.eos = _eos_ids(model, tokenizer)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        plan: StagePlan,
        decoding: Decoding,
        *,
        confidences: bool = False,
        carry: Carry | None = None,
    ) -> Batch:
        """Generates every request's continuation.

        Args:
            confidences: keep each step's largest softmax probability.
            carry: what an earlier stage left of the same groups is used, and what this one leaves goes there.

        Raises:
            LiteStageError: an empty prompt.
        """
        detokenise = Detokenise(self.tokenizer, decoding.stop, self._alone)
        rows = [Row(request, plan.exit, self.eos, detokenise, confidences) for request in requests]
        room = self.decoder.context_length
        for row in rows:
            row.fit(room)
        seconds = [0.0, 0.0]
        sampler = Sampler(decoding)
        waiting = [row for row in rows if row.stop is None]
        while waiting:  # once, and again for rows whose rotary factors changed under way (Phi-3 longrope)
            self._run(waiting, plan, sampler, seconds, carry)
            waiting = [row for row in waiting if row.stop is None]
        return Batch([row.generation() for row in rows], *seconds)

    @torch.inference_mode()
    def loglikelihood(self, pairs: Sequence[Pair], plan: StagePlan) -> list[tuple[float, bool]]:
        """Scores continuations; see :func:`litestage.engine.score.loglikelihood`."""
        return loglikelihood(self, pairs, plan)

    @torch.inference_mode()
    def choose(self, sequences: Sequence[Sequence[int]], plan: StagePlan) -> tuple[int, float]:
        """The most probable of several token sequences, by index, and the seconds that took.

        See :func:`litestage.engine.score.most_likely`.
        """
        started = self._clock()
        index = most_likely(self, sequences, plan)
        return index, self._clock() - started

    def next_token_logits(self, prompt: Sequence[int], plan: StagePlan) -> Tensor:
        """Logits [vocabulary] after a prompt, which runs as a prompt does under the plan."""
        if self.plain_because(plan) is None:
            return self._fast.next_token_logits(prompt, plan)
        return self.plain.prefill([prompt], [0], plan)[0][0]

    @cached_property
    def _fast(self) -> FastPath:
        return FastPath(self.decoder, static=self.path == "static", compiling=self._compiling)

    @property
    def lean(self) -> LeanDecoder | None:
        """The sub-layers in lean form, or None where the plain path runs them."""
        return None if self.plain_because(StagePlan()) else self._fast.lean

    def plain_because(self, plan: StagePlan) -> str | None:
        """Why the plain path runs this plan, or None where the fast path does."""
        return "engine.path is plain" if self.path == "plain" else FastPath.refuses(self.decoder, plan)

    def stepwise_because(self, plan: StagePlan) -> str | None:
        """Why the host writes out this plan's decode steps, or None where they are static (CUDA graphs on CUDA)."""
        static = None if self.plain_because(plan) else self._fast.static
        return "engine.path is not static" if static is None else static.refuses(plan)

    def _run(
        self, rows: list[Row], plan: StagePlan, sampler: Sampler, seconds: list[float], carry: Carry | None
    ) -> None:
        # a schedule's rows keep step within a question only: many questions are quicker in the plain path's batches
        apart = plan.schedule is not None and len({row.request.group for row in rows}) > 1
        if self.plain_because(plan) is None and not apart:
            self._fast.run(rows, plan, sampler, seconds, self._clock, carry)
            return
        self.plain.run(rows, plan, sampler, seconds, self._clock)

    def _clock(self) -> float:
        if self.decoder.device.type == "cuda":
            torch.cuda.synchronize(self.decoder.device)
        return perf_counter()


def _eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Token ids that end a generation, as ``generate`` would use them; the first one stands for an exit."""
    for source in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        if source is not None:
            return tuple(source) if isinstance(source, (list, tuple)) else (source,)
    raise LiteStageError(
        "Neither the model nor its tokenizer names an end-of-sequence token; "
        "set eos_token_id in generation_config.json."
    )
