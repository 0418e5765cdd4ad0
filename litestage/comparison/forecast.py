"""How long a comparison will take, said before it starts: full depth's speed on a few questions, times the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from time import perf_counter

from litestage.comparison.another_model import another_model
from litestage.config import SearchConfig, variant
from litestage.methods.shorthand import parted, wants_drafts
from litestage.plan import Plan
from litestage.ranks import from_rank_zero, here
from litestage.runner import run
from litestage.search import find_strategy
from litestage.search.calibrated import most_skipped
from litestage.session.drafts import TIMED
from litestage.session.workbench import Workbench
from litestage.stages import Question

TOGETHER, ALONE = 8, 2
"""How many questions full depth answers beforehand, in one batch and one at a time."""


@dataclass(frozen=True)
class Forecast:
    """Seconds, about."""

    search_s: float
    drafts_s: float
    accuracy_s: float
    latency_s: float

    def __str__(self) -> str:
        parts = {
            "searching plans": self.search_s,
            "drafts": self.drafts_s,
            "accuracy": self.accuracy_s,
            "latency": self.latency_s,
        }
        said = ", ".join(f"{what} {duration(seconds)}" for what, seconds in parts.items() if seconds)
        total = duration(sum(parts.values()))
        return (
            f"This will take roughly {total} at full depth's speed ({said}); less where results were kept, more where "
            "a plan rambles."
        )


def forecast(bench: Workbench, specs: Sequence[str], questions: Sequence[Question], timed: int) -> Forecast:
    """Runs full depth on a few of the questions, by the clock and without the store.

    Args:
        specs: the methods that are compared.
        timed: how many questions each answers one at a time.
    """
    searches = _searches(bench, specs)
    drafted = sum(map(wants_drafts, specs)) + sum(each is not None and each.draft != "none" for each in searches)
    together, alone = _seconds(bench, questions, timed > 0 or drafted > 0)
    search = sum(_asked(bench, options) for options in searches) * together
    drafts = drafted * (len(bench.calibration()) * together + 2 * TIMED * alone)
    latency = len(specs) * (timed + 1) * alone if timed else 0.0
    return from_rank_zero(lambda: Forecast(search, drafts, len(specs) * len(questions) * together, latency))


def _seconds(bench: Workbench, questions: Sequence[Question], timed: bool) -> tuple[float, float]:
    """Full depth's seconds a question: many together, and one at a time (0 where none will be timed)."""
    full = bench.session.without_reuse().contestant(bench.pipeline, Plan.full(bench.pipeline.stage_names))
    few = questions[:TOGETHER]
    full.answer(few[:1], timed=False)  # warm
    began = perf_counter()
    full.answer(few, timed=False)  # not by a run, whose set-up is made once for all questions
    together = (perf_counter() - began) / (len(few) * here().world_size)  # every rank answers as many at the same time
    traces = run(questions[:ALONE], {"full": full}, timed=True)["full"] if timed else []
    return together, fmean(trace.latency_s or 0.0 for trace in traces) if traces else 0.0


def _searches(bench: Workbench, specs: Sequence[str]) -> list[SearchConfig | None]:
    """The searches that these methods need, each once; None stands for a baseline's best budget."""
    config = bench.config
    found: dict[str, SearchConfig | None] = {}
    for spec in specs:
        body = parted(spec)[0]
        another = another_model(config, body)
        if body == "litestage" or (another is not None and another.method == "litestage"):
            found[body] = config.search
        elif body in config.variants:
            found[body] = variant(config, body)
        elif body.endswith(":best"):
            found[body] = None
    return list(found.values())


def _asked(bench: Workbench, options: SearchConfig | None) -> float:
    """About how many questions a search has answered, ranking and full depth's own answers counted as such."""
    search = options or bench.config.search
    calibration = min(search.calibration, len(bench.task.questions("calibration")))
    budgets, stages = most_skipped(search, bench.session.engine.decoder.layers), len(bench.pipeline.stage_names)
    return calibration * find_strategy("one_budget" if options is None else search.strategy).passes(stages, budgets)


def duration(seconds: float) -> str:
    """``40 s``, ``3 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
