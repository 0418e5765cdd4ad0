"""The prefix cache: keys and values that outlive their lane, left by a stage to the next or common to all prompts.

A stage's prompt mostly begins with the one before it, and goes on with what that stage wrote. Behind the same tokens a
token has the same keys and values where the same sub-layers ran in the same way, so those are not prefilled again: of
the prompt, where both stages run their prompts alike, and of the text too, where it was written as prompts are run
(which text that skips behind prompts of full depth was not). Stages that skip differently prefill afresh:
another stage's keys and values would be wrong. By the clock a stage leaves something only under a plan with
``prefix_cache``: in the paper every stage prefills afresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from torch import Tensor

from litestage.plan import StagePlan

MAX_BYTES = 256 * 2**20
"""Bytes that are kept for the next stage at most; further questions prefill afresh."""


def common_length(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def common_prefix(sequences: Sequence[Sequence[int]]) -> Sequence[int]:
    """The longest prefix of all sequences that leaves each a token of its own, to predict from."""
    first, room = sequences[0], min(map(len, sequences)) - 1
    return first[: min([room, *(common_length(first, other) for other in sequences[1:])])]


@dataclass(frozen=True)
class CachedPrefix:
    """What one lane held.

    Attributes:
        rows: token sequences from their beginnings, and in which slot each of the tokens is.
        whole: by layer, keys and values [2, heads, slots, width].
    """

    rows: list[tuple[Sequence[int], list[int]]]
    whole: dict[int, Tensor]

    @property
    def nbytes(self) -> int:
        return sum(kept.nbytes for kept in self.whole.values())

    def longest(self, tokens: Sequence[int]) -> tuple[int, int]:
        """How many first tokens a row has in common with these, and which row: the one with the most."""
        counts = [common_length(row, tokens) for row, _ in self.rows]
        return max(counts), counts.index(max(counts))


class PrefixCache:
    """From stage to stage of questions that go through them together: by group of rows, what its lane held.

    Attributes:
        following: the next stage's plan; None where there is no next stage.
    """

    def __init__(self) -> None:
        self.following: StagePlan | None = None
        self._prefixes: dict[int, CachedPrefix] = {}
        self._plan: StagePlan | None = None
        self._bytes = 0
        self._lock = Lock()

    def take(self, plan: StagePlan) -> dict[int, CachedPrefix]:
        """What an earlier stage has left that this plan's rows can use; the rest is dropped."""
        usable = self._prefixes if self._plan is not None and prompts_alike(self._plan, plan) else {}
        self._prefixes, self._bytes, self._plan = {}, 0, plan
        return usable

    @property
    def wanted(self) -> bool:
        """Whether the next stage can use what rows of the plan that took last will leave."""
        return self._plan is not None and self.following is not None and prompts_alike(self._plan, self.following)

    @property
    def texts(self) -> bool:
        """Whether that includes what the rows write."""
        return self._plan is not None and self.following is not None and texts_alike(self._plan, self.following)

    def put(self, group: int, prefix: CachedPrefix) -> None:
        """Keeps it for the next stage, if it is the first or there is room."""
        with self._lock:
            if not self._prefixes or self._bytes + prefix.nbytes <= MAX_BYTES:
                self._prefixes[group] = prefix
                self._bytes += prefix.nbytes


def prompts_alike(one: StagePlan, two: StagePlan) -> bool:
    """Whether keys and values of the first's prompts are those of the second's."""
    if one.phase == "decode" and two.phase == "decode":
        return True  # both at full depth
    return texts_alike(*(StagePlan() if plan.phase == "decode" else plan for plan in (one, two)))


def texts_alike(one: StagePlan, two: StagePlan) -> bool:
    """Whether keys and values of what the first writes are those of the second's prompts."""
    return one.phase == "both" and one.schedule is None and one.computation == two.computation
