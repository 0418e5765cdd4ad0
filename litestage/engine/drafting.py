"""Decode steps with drafts: what may follow is guessed for every row, and one pass verifies all of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from litestage.decoder.decoder import Path
from litestage.drafts.lookup import Lookup
from litestage.engine.rows import Row
from litestage.engine.runner import HostRunner, RunningBatch
from litestage.plan import SkipSet, StagePlan


class Drafter:
    """Takes a batch on by guesses, as the plan's stage says. Tokens are those of :meth:`HostRunner.decode`.

    Args:
        plan: has a draft.
    """

    def __init__(self, runner: HostRunner, plan: StagePlan) -> None:
        assert plan.draft is not None
        self._runner, self._plan, self._draft = runner, plan, plan.draft
        self._lookups: dict[Row, Lookup] = {}

    def decode(self, batch: RunningBatch) -> None:
        """The next token of every row that is going, and those after it that were guessed."""
        self._runner.settle(batch)
        rows = [row for of_lane in batch.going.values() for row in of_lane]
        if self._draft.kind == "skip":
            guesses = self._runner.propose(batch, self._path, self._draft.length)
        else:
            guesses = {row: [row.last, *self._looked_up(row)] for row in rows}
        if all(len(guess) == 1 for guess in guesses.values()):
            return self._runner.decode(batch)
        written = {row: len(row.tokens) for row in rows}
        self._runner.verify(batch, guesses)
        batch.work.steps += 1
        for row, (_, *guessed) in guesses.items():
            row.guessed += len(guessed)
            row.accepted += sum(a == b for a, b in zip(guessed, row.tokens[written[row] :], strict=False))

    @cached_property
    def _path(self) -> Path:
        """What writes a draft of kind ``skip``."""
        skip = SkipSet.of({*self._plan.skip.names, *self._draft.skip.names})
        return self._runner.path(replace(self._plan, skip=skip, compensation="none", draft=None), "decode")

    def _looked_up(self, row: Row) -> list[int]:
        if row not in self._lookups:
            self._lookups[row] = self._draft.lookup(row.request.prompt)
        return self._lookups[row].guess(row.tokens, min(self._draft.length, row.left - 1))
