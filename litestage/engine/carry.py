"""Keys and values that outlive their lane: what a stage leaves to the next, and what all prompts begin with.

A stage's prompt mostly begins with the one before it, and goes on with what that stage wrote. Where both stages run
the same sub-layers in the same way (the same skip set, in prefill and decode), a token behind the same tokens has the
same keys and values, so only what is new is prefilled. Stages that skip differently prefill afresh: another stage's
keys and values would be wrong. By the clock nothing is carried over: every stage prefills afresh, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from torch import Tensor

from litestage.plan import StagePlan

ROOM = 256 * 2**20
"""Bytes that are carried over at most; further questions prefill afresh."""


@dataclass(frozen=True)
class Held:
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

    def common(self, tokens: Sequence[int]) -> tuple[int, int]:
        """How many first tokens a row has in common with these, and which row: the one with the most."""
        counts = [alike(held, tokens) for held, _ in self.rows]
        return max(counts), counts.index(max(counts))


class Carry:
    """From stage to stage of questions that go through them together: by group of rows, what its lane held.

    Attributes:
        following: the next stage's plan; None where there is no next stage.
    """

    def __init__(self) -> None:
        self.following: StagePlan | None = None
        self._held: dict[int, Held] = {}
        self._plan: StagePlan | None = None
        self._bytes = 0
        self._lock = Lock()

    def take(self, plan: StagePlan) -> dict[int, Held]:
        """What an earlier stage has left that this plan's rows can use; the rest is dropped."""
        held = self._held if self._plan is not None and _runs_alike(self._plan, plan) else {}
        self._held, self._bytes = {}, 0
        return held

    def wants(self, plan: StagePlan) -> bool:
        """Whether the next stage can use what this plan's rows will leave."""
        self._plan = plan
        return self.following is not None and _runs_alike(plan, self.following)

    def leave(self, group: int, held: Held) -> None:
        """Keeps it for the next stage, if there is room."""
        with self._lock:
            if self._bytes + held.nbytes <= ROOM:
                self._held[group] = held
                self._bytes += held.nbytes


def _runs_alike(one: StagePlan, two: StagePlan) -> bool:
    """Whether keys and values of the first, of its prompts and of what it wrote, are those of the second's prompts."""
    return one.phase == "both" and one.schedule is None and one.computation == two.computation


def alike(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two sequences begin with in common."""
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
