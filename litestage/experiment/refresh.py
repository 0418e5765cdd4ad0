"""Texts written under a plan in segments, each of which begins with all sub-layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from litestage.engine import Decoding, Engine, Request
from litestage.plan import ExitRule, SkipSet, StagePlan
from litestage.plan.draft import Draft
from litestage.session import Session
from litestage.store import ReusingEngine

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """A text, and at which of its tokens all sub-layers ran again."""

    tokens: Tokens
    refreshes: tuple[int, ...]


def going_on(session: Session) -> Session:
    """The same session, whose texts have no end but the limit: no token of the vocabulary ends them."""
    engine = Engine(session.loaded.model, session.loaded.tokenizer)
    engine.eos = (engine.decoder.embeddings,)
    reusing = ReusingEngine(engine, session.reusing.fingerprint, session.reusing.store)
    return replace(session, engine=engine, reusing=reusing)


@dataclass(frozen=True)
class Writer:
    """Writes texts under a plan, in segments that each begin with all sub-layers."""

    session: Session
    limit: int
    decoding: Decoding

    def write(
        self, prompts: Sequence[Tokens], plan: StagePlan, every: int | None = None, below: float | None = None
    ) -> list[Written]:
        """By prompt, its text.

        Args:
            every: refresh after so many tokens; None for never.
            below: refresh where a token has no more probability than this; that token is then taken from all
                sub-layers.
        """
        if every is None and below is None:
            return [Written(tokens, ()) for tokens, _ in self._segments(prompts, plan, self.limit)]
        rule = None if below is None else ExitRule("confidence", below, 1)
        texts: list[Tokens] = [() for _ in prompts]
        refreshes: list[list[int]] = [[] for _ in prompts]
        going, sparse = list(range(len(prompts))), replace(plan, phase="decode", exit=rule)
        while going:
            ahead = [self.limit - len(texts[row]) for row in going]
            limit = min(max(ahead), every or self.limit)
            asked = [prompts[row] + texts[row] for row in going]
            found = self._segments(asked, sparse, limit)
            stuck = [at for at, (tokens, _) in enumerate(found) if not tokens]
            if stuck:  # unsure at full depth too: its token is taken all the same
                one = self._segments([asked[at] for at in stuck], StagePlan(), 1)
                for at, segment in zip(stuck, one, strict=True):
                    found[at] = segment
            left = []
            for row, room, (tokens, ended) in zip(going, ahead, found, strict=True):
                refreshes[row].append(len(texts[row]))
                texts[row] += tokens[:room]
                if not ended and len(texts[row]) < self.limit:
                    left.append(row)
            going = left
        return [Written(tokens, tuple(at)) for tokens, at in zip(texts, refreshes, strict=True)]

    def speculate(self, prompts: Sequence[Tokens], skip: SkipSet, length: int) -> tuple[list[Written], int, int]:
        """Texts that are drafted without ``skip``, so many tokens at a time, and verified by all sub-layers.

        Returns:
            The texts, how many tokens were guessed, and how many of these were right.
        """
        plan = StagePlan(draft=Draft("skip", length=length, skip=skip))
        texts: list[Written] = []
        guessed = accepted = 0
        for requests in self._batches(prompts, self.limit):
            for row in self.session.engine.generate(requests, plan, self.decoding).generations:
                texts.append(Written(row.tokens, ()))
                guessed, accepted = guessed + row.guessed, accepted + row.accepted
        return texts, guessed, accepted

    def _segments(self, prompts: Sequence[Tokens], plan: StagePlan, limit: int) -> list[tuple[Tokens, bool]]:
        """By prompt, what follows it, without the token at which an exit rule was met, and whether that is its end."""
        found: list[tuple[Tokens, bool]] = []
        for requests in self._batches(prompts, limit):
            for generation in self.session.reusing.generate(requests, plan, self.decoding):
                cut = generation.stop == "exit"
                tokens = generation.tokens[:-1] if cut else generation.tokens
                found.append((tokens, not cut and generation.stop != "length"))
        return found

    def _batches(self, prompts: Sequence[Tokens], limit: int) -> Iterator[list[Request]]:
        size = self.session.batch_size
        for at in range(0, len(prompts), size):
            yield [Request(prompt, limit, group=row) for row, prompt in enumerate(prompts[at : at + size])]
