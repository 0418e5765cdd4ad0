"""Parts of an experiment that a killed run had finished, kept in the store until all are done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from litestage.environment import environment
from litestage.ranks import from_rank_zero
from litestage.session.workbench import Workbench
from litestage.store.journal import RunJournal


class Resumed:
    """A run's parts by name. Only the same experiment with the same options, on the same machine, takes them up.

    Args:
        of: all that decides what comes out, as plain data.
    """

    def __init__(self, bench: Workbench, *of: object) -> None:
        session = bench.session
        content = json.dumps(
            [session.reusing.identity, environment(session.engine), bench.pipeline.hash, of], sort_keys=True
        )
        run = hashlib.sha256(content.encode()).hexdigest()[:24]
        writer = from_rank_zero(lambda: uuid4().hex)
        self._model, self._engine = session.reusing.fingerprint, session.engine.name
        self._journal = RunJournal(session.reusing.store, run, writer)
        self._done = from_rank_zero(self._journal.take_up)

    def once(self, name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What the part gave before, or gives now."""
        if name not in self._done:
            self._done[name] = part()
            self._journal.keep({name: self._done[name]}, self._model, self._engine)
        return self._done[name]

    def close(self) -> None:
        """All is done: nothing is left to take up."""
        self._journal.close()
