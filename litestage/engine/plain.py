"""The engine's plain path: batched decoding with explicit positions, on any device, for every family and plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from litestage.decoder.decoder import Attending, Decoder, Path
from litestage.engine.cache import KVCache
from litestage.engine.prefix import common_prefix, padded
from litestage.engine.rows import Row, Sampler
from litestage.engine.schedule import Course
from litestage.engine.verify import verify
from litestage.plan import StagePlan

COMPACT = 0.7
"""Finished rows leave the batch once this share or less is still going: leaving copies the whole cache."""


class PlainPath:
    """Runs rows through the decoder's own sub-layers under a plan."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def run(self, rows: list[Row], plan: StagePlan, sampler: Sampler, clock: Callable[[], float]) -> float:
        """Decodes all rows to their ends; returns the seconds until they had their first tokens."""
        started = clock()
        course = Course(self.decoder, plan)
        course.prepare()
        logits, cache = self.prefill([row.sequence for row in rows], [row.request.group for row in rows], plan)
        sampler.advance(rows, logits)
        prefill_s = clock() - started
        drafted = any(row.request.draft for row in rows)
        if drafted and sampler.greedy and self.decoder.longrope_limit is None and not course.splits:
            verify(self, rows, cache, course.path(rows, 1), sampler)
        batches = [(rows, cache)]
        while batches:
            batches += self._decode(*batches.pop(), course, sampler)
        return prefill_s

    def _decode(
        self, rows: list[Row], cache: KVCache, course: Course, sampler: Sampler
    ) -> list[tuple[list[Row], KVCache]]:
        """Decodes rows until all have ended, or until a schedule sends them different ways: hands back the parts."""
        while True:
            switching = [row.stop is None and row.length == self.decoder.rerun_length for row in rows]
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
