"""Compares methods on one task: accuracy on every test question, latency one question at a time, interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litestage.comparison.another_model import check_rows
from litestage.comparison.entrants import Entrant, entrant_of, row_names, waits_for_a_search
from litestage.comparison.forecast import forecast
from litestage.comparison.results import Measured, answered_by_the_clock, detectable, summarise
from litestage.environment import environment, peak_cuda_mb, peak_memory
from litestage.methods.shorthand import distinct, parted
from litestage.plan import Plan
from litestage.progress import console
from litestage.ranks import from_rank_zero, here
from litestage.runner import Contestant, run
from litestage.search.candidate import SearchResult
from litestage.session.workbench import Workbench
from litestage.stages import Question
from litestage.trace import Trace


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found.

    Attributes:
        results: results.json's content.
        questions: what was asked.
        measured: every method's traces.
        plans: every method's plan.
        search: the search behind ``litestage``, if it is among the methods.
        searches: the searches behind the variants and the baselines' best budgets, by method.
    """

    results: dict[str, Any]
    questions: list[Question]
    measured: dict[str, Measured]
    plans: dict[str, Plan]
    search: SearchResult | None
    searches: dict[str, SearchResult]


def compare(bench: Workbench) -> Comparison:
    """Runs every method of the configuration on the test split."""
    config, session = bench.config, bench.session
    specs = distinct(["full", *config.methods])
    check_rows(config, specs)
    rows = row_names(specs)
    questions = bench.task.questions("test")[: config.questions]
    timed = questions[: config.latency_questions]
    expected = forecast(bench, specs, questions, len(timed))
    if here().rank == 0:
        console.print(str(expected), highlight=False, soft_wrap=True)
    made: dict[str, Entrant] = {}
    waiting = [spec for spec in specs if waits_for_a_search(config, spec)]
    for spec in specs:
        if spec not in waiting:  # what is wrong with one of these is told before the searches
            made[spec] = entrant_of(bench, spec, None, made)
    found = bench.search() if any(parted(spec)[0] == "litestage" for spec in specs) else None
    for spec in waiting:
        made[spec] = entrant_of(bench, spec, found, made)
    entrants = {rows[spec]: made[spec] for spec in specs}
    contestants = {name: entrant.contestant for name, entrant in entrants.items()}
    size = config.engine.batch_size
    accuracy: dict[str, list[Trace]] = {}
    for name, contestant in contestants.items():
        accuracy |= run(questions, {name: contestant}, batch_size=size, progress=f"{name}: accuracy")
    store = session.reusing.store
    latency = run(timed, contestants, timed=True, journal=store, progress="latency, one at a time") if timed else {}
    peaks = from_rank_zero(lambda: {name: _peak_mb(contestants[name], timed[:1]) for name in contestants})
    measured = {
        name: Measured(
            entrant.contestant.plan,
            accuracy[name],
            latency.get(name, ()),
            entrant.note,
            peaks[name],
            entrant.model,
            entrant.at,
            entrant.contestant.plan.certified_on(bench.task.name),
        )
        for name, entrant in entrants.items()
    }
    results = {
        "task": f"{bench.task.name}_multistage",
        "split": "test",
        "data": dict(bench.task.source.origin),
        "n": len(questions),
        "pipeline": {"name": bench.pipeline.name, "hash": bench.pipeline.hash},
        "model": {"name": config.model.name, **session.loaded.about},
        "environment": environment(session.engine),
        "latency_measured": _latency_measured(measured, len(timed), session.engine.decoder.context_length),
        "memory": peak_memory(),
        "minimum_detectable_drop": detectable(measured),
        "methods": summarise(measured),
    }
    searches = {name: entrant.search for name, entrant in entrants.items() if entrant.search is not None}
    plans = {name: contestant.plan for name, contestant in contestants.items()}
    others = {name: search for name, search in searches.items() if search is not found}
    return Comparison(results, questions, measured, plans, found, others)


def _latency_measured(measured: Mapping[str, Measured], timed: int, context: int) -> str:
    """How seconds were measured, of which questions if not of all that were timed, or why there are none."""
    if not timed:
        return "not measured, as latency_questions is 0: there is no speed-up"
    answered = len(answered_by_the_clock(method.latency for method in measured.values()))
    non_finite = any(trace.non_finite for method in measured.values() for trace in method.latency)
    rest = f"the context of {context} tokens" + (" without logits that are no numbers" if non_finite else "")
    if not answered:
        return (
            f"not measured, as none of the {timed} timed questions fits {rest} in every stage of every method: there "
            "is no speed-up"
        )
    how = "one question at a time, methods interleaved, after a warm-up"
    if answered == 1:
        how += ", and of one question alone an interval has no width"
    short = f", over the {answered} of {timed} timed questions that fit {rest} in every stage of every method"
    return how if answered == timed else how + short


def _peak_mb(contestant: Contestant, questions: Sequence[Question]) -> float | None:
    """Peak CUDA memory while this contestant answers, one question at a time; None elsewhere."""
    device = contestant.engine.engine.decoder.device
    return peak_cuda_mb(device, lambda: contestant.answer(questions, timed=True)) if questions else None
