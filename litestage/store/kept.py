"""Measurements of one model, as plain data in the store: made once, then found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from litestage.ranks import from_rank_zero
from litestage.store.store import ResultStore


@dataclass(frozen=True)
class KeptMeasurements:
    """What was measured of a model, the same on all ranks.

    Attributes:
        identity: what the engine's tokens depend on (:func:`litestage.store.identity.identity`).
    """

    store: ResultStore
    identity: Mapping[str, Any]

    def key(self, kind: str, *content: object) -> str:
        """The store's key for a measurement that depends on ``content``, which is plain data."""
        text = json.dumps([kind, self.identity, *content], sort_keys=True)
        return f"{kind}/{hashlib.sha256(text.encode()).hexdigest()}"

    def known(self, key: str) -> dict[str, Any] | None:
        """A measurement that was kept before."""
        return from_rank_zero(lambda: self.store.get([key]).get(key))

    def put(self, key: str, measured: dict[str, Any]) -> None:
        self.store.put({key: measured}, model=self.identity["weights"], engine=self.identity["engine"])

    def once(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A measurement that was kept before, else as ``measure`` gives it.

        Args:
            measure: called on all ranks, and must return the same on all.
        """
        known = self.known(key)
        if known is None:
            known = measure()
            self.put(key, known)
        return known
