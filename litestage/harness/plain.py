"""Answers lm-eval's requests for tasks without stages, under the plan's stage ``default``: scores and continuations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from logging import getLogger
from math import isnan
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from rich.progress import track

from litestage.engine import Request
from litestage.errors import LiteStageError
from litestage.harness.arguments import ModelArguments
from litestage.harness.staged import CHOOSING, decoding_of, refuse_unused
from litestage.plan import StagePlan
from litestage.ranks import here, share, union
from litestage.reading import whole
from litestage.session import Session

_logger = getLogger("lm_eval.litestage")
_MAX_GEN_TOKS = 256  # lm-eval's own default
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # lm-eval takes the first given


@dataclass
class PlainRequests:
    """Runs requests that know no stages in one session, shared out over the ranks; all ranks get all answers."""

    session: Session
    arguments: ModelArguments

    @cached_property
    def plan(self) -> StagePlan:
        """What such tasks run under. Raises LiteStageError where the plan has no stage ``default``."""
        return self.session.plan(self.arguments.plan, None, None)["default"]

    def scores(self, pairs: Sequence[tuple[list[int], list[int]]], quiet: bool) -> list[tuple[float, bool]]:
        """Log-probability of each continuation after its context, and whether greedy decoding would write it.

        Args:
            pairs: token ids of context and continuation; a context that is too long loses its beginning.

        Raises:
            LiteStageError: a continuation alone is longer than the model's context.
        """
        room = self._context + 1  # the last token is predicted, never read
        longest = max((len(ending) for _, ending in pairs), default=0)
        if longest >= room:
            raise LiteStageError(f"A continuation has {longest} tokens, but the model's context is {self._context}.")
        self._warn_of_cut(sum(len(context) + len(ending) > room for context, ending in pairs))
        fitting = [(context[-(room - len(ending)) :], ending) for context, ending in pairs]
        scores: dict[int, tuple[float, bool]] = {}
        for chunk in self._batches([len(context) + len(ending) for context, ending in fitting], quiet):
            scored = self.session.engine.loglikelihood([fitting[index] for index in chunk], self.plan)
            scores |= dict(zip(chunk, scored, strict=True))
        scores = union(scores)
        _warn_of_broken("scores", sum(isnan(score) for score, _ in scores.values()))
        return [scores[index] for index in range(len(pairs))]

    def continuations(self, requests: Sequence[Any], encode: Callable[[str], list[int]], quiet: bool) -> list[str]:
        """The text that follows each lm-eval ``Instance``'s context, by its own generation keywords."""
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(index)
        texts: dict[int, str | None] = {}
        for indices in groups.values():
            asked = {index: requests[index] for index in indices}
            texts |= self._continue(asked, requests[indices[0]].args[1], encode, quiet)
        texts = union(texts)
        _warn_of_broken("continuations", sum(text is None for text in texts.values()))
        return [texts[index] or "" for index in range(len(requests))]

    def _continue(
        self, asked: dict[int, Any], given: dict[str, Any], encode: Callable[[str], list[int]], quiet: bool
    ) -> dict[int, str | None]:
        """This rank's share of requests with the same keywords; None where logits were no numbers."""
        refuse_unused(given, (*_LIMITS, "until", *CHOOSING), "in tasks without stages")
        limits = {name: whole(given[name], name, least=1) for name in _LIMITS if given.get(name) is not None}
        keywords = normalize_gen_kwargs({**limits, "until": given.get("until") or []}, _MAX_GEN_TOKS)
        limit = keywords["max_gen_toks"]
        if limit >= self._context:
            raise LiteStageError(f"max_gen_toks is {limit}, but the context is {self._context}; give less.")
        until = keywords["until"]
        if not all(isinstance(text, str) for text in until):
            raise LiteStageError(f"until is {given['until']!r:.80}; give a text or a list of texts.")
        stop = tuple(text for text in until if text)
        decoding = replace(decoding_of(given), stop=stop)
        prompts, room = [encode(request.args[0]) for request in asked.values()], self._context - limit
        self._warn_of_cut(sum(len(prompt) > room for prompt in prompts))
        rows = [
            Request(tuple(prompt[-room:]), limit, group=at, stream=f"{request.doc_id}/{index}")
            for at, (prompt, (index, request)) in enumerate(zip(prompts, asked.items(), strict=True))
        ]
        indices = list(asked)
        texts: dict[int, str | None] = {}
        for chunk in self._batches([len(row.prompt) for row in rows], quiet):
            generations = self.session.reusing.generate([rows[at] for at in chunk], self.plan, decoding)
            texts |= {
                indices[at]: None if generation.stop == "non_finite" else generation.text
                for at, generation in zip(chunk, generations, strict=True)
            }
        return texts

    def _warn_of_cut(self, count: int) -> None:
        if count:
            _logger.warning(
                "%d prompts do not fit the model's context of %d tokens with what is to follow: they lost their "
                "beginning; give fewer examples, or ask for less.",
                count,
                self._context,
            )

    @property
    def _context(self) -> int:
        return self.session.engine.decoder.context_length

    def _batches(self, lengths: Sequence[int], quiet: bool) -> Iterable[list[int]]:
        """Indices in batches, the longest first; with many ranks, this one's batches."""
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
        size = self.arguments.batch_size
        chunks = share([order[at : at + size] for at in range(0, len(order), size)])
        return track(chunks, "Requests", disable=quiet or not chunks or here().rank > 0)


def _warn_of_broken(what: str, count: int) -> None:
    if count:
        _logger.warning(
            "%d %s met logits that are no finite numbers; they are no answers. Use dtype=float32.", count, what
        )
