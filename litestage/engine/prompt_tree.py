"""The prompt tree: rows that share a lane of the KV cache, a question's options above all."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.engine.attention import SHARED
from litestage.engine.cache import KVCache, Token
from litestage.engine.prefix_cache import CachedPrefix, common_prefix
from litestage.engine.rows import Row

MIN_REUSED_TOKENS = 8
"""First tokens that are taken from another lane at least: a prompt without any is prefilled in fewer operations."""
FIRST_NEW_SLOTS = 64
"""Slots for new tokens that a row's lane begins with: few generations come near their limit."""


class PromptTree:
    """Rows that share a lane: their prompts as one tree, and which branch each row is.

    Attributes:
        prompt: the tree's tokens, what all rows share first.
        last: where in the prompt each row's last token is.
        known: how many of the first tokens need no prefill, being held in another lane.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.branch = {row: branch if len(self.rows) > 1 else SHARED for branch, row in enumerate(self.rows)}
        sequences = [row.sequence for row in self.rows]
        shared = common_prefix(sequences) if len(self.rows) > 1 else ()
        self.prompt: list[Token] = [(token, position, SHARED) for position, token in enumerate(shared)]
        self.last: list[int] = []
        self.known = 0
        self._prefix: tuple[CachedPrefix, int] | None = None
        self._shared = len(shared)
        for row, sequence in zip(self.rows, sequences, strict=True):
            self.prompt += [(sequence[at], at, self.branch[row]) for at in range(len(shared), len(sequence))]
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

    def begin_with(self, prefix: CachedPrefix) -> None:
        """Takes as many first tokens from a cached prefix as it can, if that is worth it and more than so far."""
        count, row = prefix.longest(self.beginning)
        if count >= MIN_REUSED_TOKENS and count > self.known:
            self.known, self._prefix = count, (prefix, row)
            for each in self.rows:
                each.reused = count

    def fill(self, cache: KVCache, lane: int) -> None:
        """Empties a lane but for the known tokens."""
        cache.empty([lane])
        if self._prefix is not None:
            cache.fill(lane, *self._prefix, self.known)

    def cached(self, cache: KVCache, lane: int, texts: bool) -> CachedPrefix:
        """What the lane holds of every row's prompt, and text if wanted; of a row's last token nothing was made."""
        held = [(self.branch[row], row.sequence[:-1] if texts else row.request.prompt) for row in self.rows]
        return cache.copy_of(lane, held)

    @property
    def going(self) -> list[Row]:
        return [row for row in self.rows if row.going]

    @property
    def slots(self) -> int:
        """Slots the lane takes at most."""
        return len(self.prompt) + sum(row.limit for row in self.rows)

    @property
    def first_slots(self) -> int:
        """Slots the lane begins with."""
        return min(self.slots, len(self.prompt) + FIRST_NEW_SLOTS * len(self.rows))


def prompt_trees(rows: Sequence[Row], most: int, longrope_limit: int | None = None) -> list[PromptTree]:
    """Rows of one group share a lane, at most ``most``, unless reading the others' slots costs more than the shared
    prefill saves; with longrope, only rows whose texts are all beyond its limit, or none."""
    groups: dict[tuple[int, bool], list[Row]] = {}
    for row in rows:
        long = longrope_limit is not None and row.length > longrope_limit
        groups.setdefault((row.request.group, long), []).append(row)
    trees: list[PromptTree] = []
    parts = [whole[at : at + most] for whole in groups.values() for at in range(0, len(whole), most)]
    for group in parts:
        together = PromptTree(group)
        longest = max(row.length + row.limit for row in group)
        trees += [together] if share_a_lane(together.slots, longest) else [PromptTree([row]) for row in group]
    return trees


def share_a_lane(slots: int, longest: int) -> bool:
    """Whether rows that take so many slots in one lane, alone ``longest`` at most, are quicker in one than apart."""
    return slots <= 4 * longest
