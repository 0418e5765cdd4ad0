"""The engine: requests in, generations out, with as many rows in flight as memory holds."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import getLogger
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from litestage.decoder.decoder import Decoder
from litestage.decoder.generation import eos_ids, settings_of
from litestage.decoder.lean import LeanDecoder
from litestage.engine import scheduler, sequences
from litestage.engine.graph.compiled import COMPILING
from litestage.engine.graph.runner import GraphRunner
from litestage.engine.layer_schedule import LayerSchedule
from litestage.engine.memory import out_of_memory
from litestage.engine.prefix_cache import PrefixCache, common_prefix
from litestage.engine.requests import Decoding, Generation, Request
from litestage.engine.rows import Detokenise, Row
from litestage.engine.runner import HostRunner
from litestage.engine.sampler import Sampler
from litestage.engine.sequences import Pair, TokenSequences
from litestage.errors import LiteStageError, one_of
from litestage.plan import StagePlan

PATHS = ("fast", "host", "static")
ENGINES = {"host": "fast/2", "static": "static/3"}
"""Who decodes, with name and version: part of every stored result's key."""


@dataclass(frozen=True)
class Batch:
    """Generations in the order of their requests, and where the batch's seconds went.

    Attributes:
        prefill_s: until the rows have their first tokens: set-up, shared beginnings and prompts. Of a batch that is
            too large to run at once, set-up and all prompts; of parts side by side in threads, their mean.
        decode_s: the rest. Together they are all of :meth:`Engine.generate`.
    """

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
        path: ``host``, which writes out every decode step; ``static``, which repeats steps of fixed place and shape
            where it can (:meth:`why_not_static`), recorded on CUDA; or ``fast``: whichever the device is quicker with.
        compiling: whether static steps are compiled: ``auto`` (on CUDA), ``on`` or ``off``.

    Attributes:
        path: ``host`` or ``static``.
        most_rows: rows that may be in flight at a time; halved when memory has run out.
    """

    def __init__(self, model: Any, tokenizer: Any, path: str = "fast", compiling: str = "auto") -> None:
        self.decoder = Decoder(model)
        one_of("engine.path", path, PATHS)
        one_of("engine.compile", compiling, COMPILING)
        self._compiling = compiling
        fastest = "static" if self.decoder.device.type == "cuda" else "host"
        self.path = fastest if path == "fast" else path
        self.generation_settings = settings_of(model)
        self.tokenizer = tokenizer
        self._alone: dict[int, str] = {}  # texts of single tokens
        self.most_rows = sys.maxsize
        self.eos = eos_ids(model, tokenizer)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        plan: StagePlan,
        decoding: Decoding,
        *,
        confidences: bool = False,
        prefixes: PrefixCache | None = None,
    ) -> Batch:
        """Generates every request's continuation.

        Args:
            confidences: keep each step's largest softmax probability.
            prefixes: what an earlier stage left of the same groups is used, and what this one leaves goes there.

        Raises:
            LiteStageError: an empty prompt, a token that has no embedding, or a row that memory does not hold alone.
        """
        started = self.clock()
        detokenise = Detokenise(self.tokenizer, decoding.stop, self._alone)
        words = plan.exit.on_trial if plan.exit else ""
        trial = tuple(self.tokenizer(words, add_special_tokens=False)["input_ids"]) if words else ()
        self._refuse_unknown([trial, *(request.prompt for request in requests)])
        room, rerun_length = self.decoder.context_length, self.decoder.rerun_length
        rows = [
            Row(request, plan.exit, self.eos, detokenise, room, confidences, trial, rerun_length)
            for request in requests
        ]
        layers, sampler = self.runner.layers(plan), Sampler(decoding)
        waiting = [row for row in rows if row.stop is None]
        prefill_s = self.clock() - started
        if waiting:
            prefill_s += self._run(waiting, layers, sampler, prefixes)
        while waiting := [row for row in waiting if row.stop is None]:
            self._run(waiting, layers, sampler, prefixes)  # anew: their rotary factors changed under way (longrope)
        generations = [row.generation() for row in rows]
        return Batch(generations, prefill_s, self.clock() - started - prefill_s)

    @torch.inference_mode()
    def loglikelihood(self, pairs: Sequence[Pair], plan: StagePlan) -> list[tuple[float, bool]]:
        """Scores continuations; see :func:`litestage.engine.sequences.loglikelihood`.

        Raises:
            LiteStageError: a token that has no embedding, or a pair that memory does not hold alone.
        """
        self._refuse_unknown(tokens for pair in pairs for tokens in pair)
        scores: list[tuple[float, bool]] = []
        while len(scores) < len(pairs):
            part = pairs[len(scores) :][: self.most_rows]
            try:
                scores += sequences.loglikelihood(self.runner, part, plan)
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self._halve(len(part), max(len(context) + len(ending) for context, ending in part))
        return scores

    @torch.inference_mode()
    def choose(self, candidates: Sequence[Sequence[int]], plan: StagePlan) -> int | None:
        """The index of the most probable of several token sequences, given what all begin with; the first of equals.

        Where they part by one token each, that is a comparison of next-token logits after one prefill. None where a
        score is no number.

        Raises:
            LiteStageError: a token that has no embedding.
        """
        self._refuse_unknown(candidates)
        context = common_prefix(candidates)
        endings = [sequence[len(context) :] for sequence in candidates]
        if all(len(ending) == 1 for ending in endings):
            logits = self.next_token_logits(context, plan)
            scores = logits[[ending[0] for ending in endings]].tolist()
        else:
            scores = [score for score, _ in self.loglikelihood([(context, ending) for ending in endings], plan)]
        return None if any(map(math.isnan, scores)) else scores.index(max(scores))

    def next_token_logits(self, prompt: Sequence[int], plan: StagePlan) -> Tensor:
        """Logits [vocabulary] after a prompt, which runs as a prompt does under the plan."""
        return self.runner.prefix(prompt, plan)[1]

    @torch.inference_mode()
    def sequences(self, tokens: Sequence[Sequence[int]]) -> TokenSequences:
        """Token sequences side by side, to be run whole, sub-layer by sub-layer."""
        return TokenSequences(self.runner, tokens)

    @cached_property
    def runner(self) -> HostRunner:
        """Runs the forward passes."""
        return GraphRunner(self.decoder, self._compiling) if self.path == "static" else HostRunner(self.decoder)

    @property
    def lean(self) -> LeanDecoder:
        """The sub-layers as they run."""
        return self.runner.lean

    @property
    def kernels(self) -> dict[str, str]:
        """Our own kernels among this model's sub-layers, each with a digest of what was compiled."""
        return self.lean.kernels

    @property
    def name(self) -> str:
        """What runs: the path with its version, and the kernels: ``fast/2+c``, ``static/3+compiled``."""
        compiles = isinstance(self.runner, GraphRunner) and self.runner.why_not_compiled is None
        return "+".join([ENGINES[self.path], *["compiled"] * compiles, *sorted(self.kernels)])

    def why_not_static(self, plan: StagePlan) -> str | None:
        """Why the host writes out this plan's decode steps, or None where they are static (CUDA graphs on CUDA)."""
        return self.runner.why_not_static(plan)

    def _refuse_unknown(self, texts: Iterable[Sequence[int]]) -> None:
        """Raises LiteStageError for the first text with a token that the model has no embedding for."""
        for text in texts:
            if (last := max(text, default=0)) >= self.decoder.embeddings:
                raise LiteStageError(
                    f"A text has the token {self.tokenizer.decode([last])!r} (id {last}), for which the model has no "
                    "embedding; leave it out."
                )

    def _run(self, rows: list[Row], layers: LayerSchedule, sampler: Sampler, prefixes: PrefixCache | None) -> float:
        """Decodes rows to their ends; returns the seconds until they had their first tokens.

        When memory runs out, what has not ended begins anew with half as many rows in flight.
        """
        while True:
            try:
                return scheduler.run(self.runner, rows, layers, sampler, self.clock, self.most_rows, prefixes)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            # here, not above: an error holds the frames that hold the tensors
            given, rows = len(rows), [row for row in rows if row.stop is None]
            if not rows:
                return 0.0
            for row in rows:
                row.restart()
            layers.restart()
            self._halve(min(given, scheduler.MAX_ROWS), max(row.length + row.limit for row in rows))

    def _halve(self, rows: int, tokens: int) -> None:
        """Allows half as many rows in flight as memory has just run out with; says so the first time."""
        device, rows = self.decoder.device, min(rows, self.most_rows)
        if rows <= 1:
            raise LiteStageError(
                f"Out of memory on {device}: it does not hold the model and one row of up to {tokens} tokens. Use a "
                "smaller model or max_new_tokens, dtype=bfloat16, or a device with more memory."
            )
        if self.most_rows == sys.maxsize:
            getLogger(__name__).warning(
                "out of memory on %s with %d rows in flight: going on with %d, and fewer if need be.",
                device,
                rows,
                rows // 2,
            )
        self.most_rows = rows // 2
        self.runner.release()
        if device.type == "cuda":
            torch.cuda.empty_cache()

    def clock(self) -> float:
        """Seconds of a clock that only goes forward, once the device has done all that it was given."""
        if self.decoder.device.type == "cuda":
            torch.cuda.synchronize(self.decoder.device)
        return perf_counter()
