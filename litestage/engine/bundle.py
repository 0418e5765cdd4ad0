"""Rows that share a lane of the KV cache: a question's options."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.engine.carry import Held
from litestage.engine.lanes import Lanes
from litestage.engine.prefix import common_prefix
from litestage.engine.rows import Row
from litestage.engine.slots import SHARED, Token

WORTH = 8
"""First tokens that are taken from another lane at least: a prompt without any is prefilled in fewer operations."""


class Bundle:
    """Rows that share a lane: their prompts as one tree, and which branch each row is.

    Attributes:
        prompt: the tree's tokens, what all rows share first.
        last: where in the prompt each row's last token is.
        known: how many of the first tokens need no prefill, being held in another lane.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.branch = {row: branch if len(self.rows) > 1 else SHARED for branch, row in enumerate(self.rows)}
        prefix: Sequence[int] = ()
        if len(self.rows) > 1:
            prefixes, _ = common_prefix([row.sequence for row in self.rows], [0] * len(self.rows))
            prefix = prefixes[0] if prefixes else ()
        self.prompt: list[Token] = [(token, position, SHARED) for position, token in enumerate(prefix)]
        self.last: list[int] = []
        self.known = 0
        self._held: tuple[Held, int] | None = None
        self._shared = len(prefix)
        for row in self.rows:
            sequence, branch = row.sequence, self.branch[row]
            self.prompt += [(sequence[at], at, branch) for at in range(len(prefix), len(sequence))]
            self.last.append(len(self.prompt) - 1)

    @property
    def beginning(self) -> list[int]:
        """The tokens that may come from another lane: those before each row's own last one."""
        only = min(self.last) if len(self.rows) == 1 else self._shared
        return [token for token, _, _ in self.prompt[:only]]

    @property
    def new(self) -> list[Token]:
        """What is left of the prompt to be prefilled."""
        return self.prompt[self.known :]

    def begin_with(self, held: Held) -> None:
        """Takes as many first tokens from what a lane held as it can, if that is worth it and more than so far."""
        count, row = held.common(self.beginning)
        if count >= WORTH and count > self.known:
            self.known, self._held = count, (held, row)

    def fill(self, lanes: Lanes, lane: int) -> None:
        """Empties a lane but for the known tokens."""
        lanes.empty([lane])
        if self._held is not None:
            lanes.fill(lane, *self._held, self.known)

    def leave(self, lanes: Lanes, lane: int) -> Held:
        """What the lane holds of every row; of a row's last token nothing was made."""
        return lanes.held(lane, [(self.branch[row], row.sequence[:-1]) for row in self.rows])

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


def bundles(rows: Sequence[Row], most: int) -> list[Bundle]:
    """Rows of one group share a lane, at most so many, unless reading the others' slots costs more than the shared
    prefill saves."""
    groups: dict[int, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.request.group, []).append(row)
    made: list[Bundle] = []
    parts = [whole[at : at + most] for whole in groups.values() for at in range(0, len(whole), most)]
    for group in parts:
        together = Bundle(group)
        longest = max(row.length + row.limit for row in group)
        made += [together] if share_a_lane(together.slots, longest) else [Bundle([row]) for row in group]
    return made


def share_a_lane(slots: int, longest: int) -> bool:
    """Whether rows that take so many slots in one lane, alone ``longest`` at most, are quicker in one than apart."""
    return slots <= 4 * longest
