"""Rows that share a lane of the KV cache: a question's options."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.engine.lanes import SHARED, Token
from litestage.engine.prefix import common_prefix
from litestage.engine.rows import Row


class Bundle:
    """Rows that share a lane: their prompts as one tree, and which branch each row is."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.branch = {row: branch if len(self.rows) > 1 else SHARED for branch, row in enumerate(self.rows)}
        prefix: Sequence[int] = ()
        if len(self.rows) > 1:
            prefixes, _ = common_prefix([row.sequence for row in self.rows], [0] * len(self.rows))
            prefix = prefixes[0] if prefixes else ()
        self.prompt: list[Token] = [(token, position, SHARED) for position, token in enumerate(prefix)]
        self.last: list[int] = []  # where in the prompt each row's last token is
        for row in self.rows:
            sequence, branch = row.sequence, self.branch[row]
            self.prompt += [(sequence[at], at, branch) for at in range(len(prefix), len(sequence))]
            self.last.append(len(self.prompt) - 1)

    @property
    def going(self) -> list[Row]:
        return [row for row in self.rows if row.stop is None]

    @property
    def slots(self) -> int:
        """Slots the lane takes at most."""
        return len(self.prompt) + sum(row.limit for row in self.rows)

    @property
    def first_slots(self) -> int:
        """Slots to begin with: few generations come near their limit."""
        return min(self.slots, len(self.prompt) + 64 * len(self.rows))


def bundles(rows: Sequence[Row]) -> list[Bundle]:
    """Rows of one group share a lane, unless reading the others' slots costs more than the shared prefill saves."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.request.group, []).append(row)
    made: list[Bundle] = []
    for group in groups.values():
        together = Bundle(group)
        longest = max(row.length + row.limit for row in group)
        made += [together] if together.slots <= 4 * longest else [Bundle([row]) for row in group]
    return made
