"""The engine's plain path: batched decoding with explicit positions, on any device, for every family and plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from litestage.decoder.decoder import Attending, Decoder, Path
from litestage.decoder.lean import LeanDecoder
from litestage.engine.cache import KVCache
from litestage.engine.carry import Carry
from litestage.engine.compiled import COMPILING, unable
from litestage.engine.fast import FastPath
from litestage.engine.prefix import common_prefix, padded
from litestage.engine.rows import Row, Sampler
from litestage.engine.schedule import Course
from litestage.engine.score import Pair, loglikelihood
from litestage.engine.types import ENGINES, Decoding, Detokenise, Generation, Request
from litestage.engine.verify import verify
from litestage.errors import LiteStageError, did_you_mean
from litestage.plan import StagePlan

COMPACT = 0.7
"""Finished rows leave the batch once this share or less is still going: leaving copies the whole cache."""


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
        started = self._clock()
        logits, cache = self.prefill([row.sequence for row in rows], [row.request.group for row in rows], plan)
        prefilled = self._clock()
        sampler.advance(rows, logits)
        course = Course(self.decoder, plan)
        drafted = any(row.request.draft for row in rows)
        if drafted and sampler.greedy and self.decoder.longrope_limit is None and not course.splits:
            verify(self, rows, cache, course.path(rows, 1), sampler)
        batches = [(rows, cache)]
        while batches:
            batches += self._decode(*batches.pop(), course, sampler)
        seconds[0] += prefilled - started
        seconds[1] += self._clock() - prefilled

    def _decode(
        self, rows: list[Row], cache: KVCache, course: Course, sampler: Sampler
    ) -> list[tuple[list[Row], KVCache]]:
        """Decodes rows until all have ended, or until a schedule sends them different ways: hands back the parts."""
        while True:
            switching = [row.stop is None and row.length == self._switch for row in rows]
            going = [
                index
                for index, (row, switches) in enumerate(zip(rows, switching, strict=True))
                if row.stop is None and not switches
            ]
            if not going:
                return []
            groups = course.groups([rows[index] for index in going], [len(rows[index].tokens) for index in going])
            if len(groups) > 1:
                return [
                    ([rows[index] for index in part], cache.select(torch.tensor(part, device=self.decoder.device)))
                    for part in ([going[index] for index in group] for group in groups)
                ]
            kept = len(rows) - 1 if course.splits else COMPACT * len(rows)  # a row's own path ends with the row
            if any(switching) or len(going) <= kept:
                rows = [rows[index] for index in going]
                cache = cache.select(torch.tensor(going, device=self.decoder.device))
            path = course.path(rows, len(rows[0].tokens))
            self.decoder.work.steps += 1
            last = torch.tensor([[row.last] for row in rows], device=self.decoder.device)
            positions = torch.tensor([[row.length - 1] for row in rows], device=self.decoder.device)
            sampler.advance(rows, self.decoder.logits(self.forward(last, positions, cache, path)[:, -1]))

    def prefill(
        self, prompts: Sequence[Sequence[int]], groups: Sequence[int], plan: StagePlan
    ) -> tuple[Tensor, KVCache]:
        """Runs the prompts; rows of one group share the prefill of their longest common prefix.

        Returns:
            Next-token logits [rows, vocabulary] and the cache that holds the prompts.
        """
        path = self.decoder.path(plan, "prefill")
        device = self.decoder.device
        prefixes, owner = common_prefix(prompts, groups) if self._may_share(prompts, groups) else ([], [])
        if prefixes:
            shared = KVCache(len(prefixes), device)
            ids, positions, valid = padded(prefixes, [0] * len(prefixes), device)
            self.forward(ids, positions, shared, path, valid)
            cache = shared.select(torch.tensor(owner, device=device))
            starts = [len(prefixes[index]) for index in owner]
        else:
            cache, starts = KVCache(len(prompts), device), [0] * len(prompts)
        suffixes = [prompt[start:] for prompt, start in zip(prompts, starts, strict=True)]
        ids, positions, valid = padded(suffixes, starts, device)
        stream = self.forward(ids, positions, cache, path, valid)
        last = valid.sum(dim=1) - 1
        return self.decoder.logits(stream[torch.arange(len(prompts), device=device), last]), cache

    def forward(
        self, ids: Tensor, positions: Tensor, cache: KVCache, path: Path, valid: Tensor | None = None
    ) -> Tensor:
        """One pass of new tokens [rows, tokens] through a path; returns the final stream [rows, tokens, width]."""
        stream, attending = self.enter(ids, positions, cache, valid)
        self.decoder.work.forwarded(ids.numel())
        for sublayer in path:
            stream = sublayer(stream, attending)
        return stream

    def enter(
        self, ids: Tensor, positions: Tensor, cache: KVCache, valid: Tensor | None = None
    ) -> tuple[Tensor, Attending]:
        """The stream [rows, tokens, width] before the first sub-layer, and what the attentions of this pass share."""
        decoder = self.decoder
        cache.extend(positions, valid)
        stream = decoder.embed(ids)
        masks = {
            window: cache.mask(positions, window, additive=decoder.additive_masks, dtype=stream.dtype)
            for window in set(decoder.windows)
        }
        return stream, Attending(decoder.rotary(stream, positions), masks, cache)

    def _may_share(self, prompts: Sequence[Sequence[int]], groups: Sequence[int]) -> bool:
        limit = self.decoder.longrope_limit  # a prefix would get the short factors though its row needs the long ones
        return len(set(groups)) < len(groups) and (limit is None or max(map(len, prompts)) <= limit)

    @property
    def _switch(self) -> int | None:
        """Length at which a row's rotary factors change and it must be run anew (Phi-3 longrope)."""
        limit = self.decoder.longrope_limit
        return None if limit is None else limit + 1

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
