"""What a search tried, and what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from litestage.plan import ExitRule, Plan

if TYPE_CHECKING:
    from litestage.search.certify import Walk

Rungs = Mapping[str, int]
"""By stage, which plan of its ladder."""


@dataclass(frozen=True)
class Candidate:
    """One plan that was tried on the calibration questions.

    Attributes:
        budgets: sub-layers skipped per stage.
        accuracy: fraction of the questions tried that it got right.
        accuracy_drop: full depth's fraction of the same questions less that.
        latency_s: predicted seconds per question: prefill + tokens x step cost.
        stage_latency_s: the same by stage.
        tokens: generated tokens per question.
        questions: how many questions it was tried on.
        rungs: which plan of each stage's ladder it is.
        plan: the plan's hash.
        compensation: by stage, what stands in for what it skips.
        accuracy_drop_upper: the drop's one-sided 90 % upper limit.
        agreement: fraction of the questions tried that it answered as full depth did, right or wrong.
        exit: the exit rule that was on, as plain data, or None.
        measured_s, measured_full_s: by the clock, its and full depth's mean seconds on some questions; finalists only.
        verdict: ``chosen``, or why it was not.
    """

    budgets: dict[str, int]
    accuracy: float
    accuracy_drop: float
    latency_s: float
    stage_latency_s: dict[str, float]
    tokens: float
    questions: int
    rungs: dict[str, int] = field(default_factory=dict)
    plan: str = ""
    compensation: dict[str, str] = field(default_factory=dict)
    accuracy_drop_upper: float = 0.0
    agreement: float = 1.0
    exit: dict[str, Any] | None = None
    measured_s: float | None = None
    measured_full_s: float | None = None
    verdict: str = ""

    @property
    def exit_rule(self) -> ExitRule | None:
        return None if self.exit is None else ExitRule(**self.exit)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for candidates of the same rungs and exit rule."""
        return *self.rungs.values(), self.exit_rule


@dataclass(frozen=True)
class SearchResult:
    """The chosen plan and all that was tried on the way.

    Attributes:
        met: whether any plan but full depth met the accuracy bound and was faster.
        plans: the frontier's plans by hash, where the search keeps them.
        walk: how candidates were certified; None where no questions were kept for that.
        on: what was bounded: ``accuracy`` or ``agreement``.
    """

    plan: Plan
    chosen: Candidate
    full: Candidate
    candidates: list[Candidate]
    met: bool
    plans: Mapping[str, Plan] = field(default_factory=dict)
    walk: Walk | None = None
    on: str = "accuracy"


def frontier(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates tried on all questions that no other beats in both accuracy and predicted latency, fastest first."""
    most = max((candidate.questions for candidate in candidates), default=0)
    complete = sorted(
        (c for c in candidates if c.questions == most), key=lambda candidate: (candidate.latency_s, -candidate.accuracy)
    )
    kept: list[Candidate] = []
    for candidate in complete:
        if not kept or candidate.accuracy > kept[-1].accuracy:
            kept.append(candidate)
    return kept
