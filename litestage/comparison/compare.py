"""Compares methods on one task: accuracy on every test question, latency one question at a time, interleaved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from litestage.comparison.forecast import forecast
from litestage.comparison.results import Measured, answered_by_the_clock, detectable, summarise
from litestage.config import RunConfig, variant
from litestage.environment import environment
from litestage.errors import LiteStageError
from litestage.memory import peak_cuda_mb, peak_memory
from litestage.methods.shorthand import distinct, parse_shorthand, parted, wants_drafts
from litestage.plan import Plan, load_plan
from litestage.plan.words import NO_DRAFTS, what_it_does
from litestage.progress import console
from litestage.ranks import from_rank_zero, here
from litestage.runner import Contestant, run
from litestage.search import SearchResult
from litestage.session import Session
from litestage.session.workbench import Workbench, open_session
from litestage.stages import Question

RETRAINED = {"full-half": "reference-half"}
"""Rows that are another model at full depth: the reference recipe trained at half the depth."""
QUANTISED = "full-int8"
"""The row that is the same model at full depth with its weights in 8 bits."""


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


@dataclass(frozen=True)
class Entrant:
    """A method that takes part: what answers, what its row says, the search behind it, and another model's name.

    ``at`` is the method without its budget, and the budget, where it was given one.
    """

    contestant: Contestant
    note: str = ""
    search: SearchResult | None = None
    model: str | None = None
    at: tuple[str, int] | None = None


def compare(bench: Workbench) -> Comparison:
    """Runs every method of the configuration on the test split."""
    config, session = bench.config, bench.session
    specs = distinct(["full", *config.methods])
    rows = _row_names(specs)
    questions = bench.task.questions("test")[: config.questions]
    timed = questions[: config.latency_questions]
    expected = forecast(bench, specs, questions, len(timed))
    if here().rank == 0:
        console.print(str(expected), highlight=False, soft_wrap=True)
    found = bench.search() if any(_searched(spec) == "litestage" for spec in specs) else None
    made: dict[str, Entrant] = {}
    for spec in specs:
        made[spec] = _entrant(bench, spec, found, made)
    entrants = {rows[spec]: entrant for spec, entrant in made.items()}
    contestants = {name: entrant.contestant for name, entrant in entrants.items()}
    accuracy = {
        name: run(questions, {name: contestant}, batch_size=config.engine.batch_size, progress=f"{name}: accuracy")[
            name
        ]
        for name, contestant in contestants.items()
    }
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
    answered = len(answered_by_the_clock(measured))
    non_finite = any(trace.non_finite for method in measured.values() for trace in method.latency)
    rest = f"the context of {context} tokens" + (" without logits that are no numbers" if non_finite else "")
    if not answered:
        return (
            f"not measured, as none of the {timed} timed questions fits {rest} in every stage of every method: there "
            "is no speed-up"
        )
    how = "one question at a time, methods interleaved, after a warm-up"
    short = f", over the {answered} of {timed} timed questions that fit {rest} in every stage of every method"
    return how if answered == timed else how + short


def _peak_mb(contestant: Contestant, questions: Sequence[Question]) -> float | None:
    """Peak CUDA memory while this contestant answers, one question at a time; None elsewhere."""
    device = contestant.engine.engine.decoder.device
    return peak_cuda_mb(device, lambda: contestant.answer(questions, timed=True)) if questions else None


def _searched(spec: str) -> str:
    """The method without its suffixes."""
    return parted(spec)[0]


def _parts(spec: str) -> tuple[str, str, str]:
    """A method's name without its folder; its budget with all that follows, ``8`` or ``8:1``; and its suffixes."""
    body, plus, suffix = spec.partition("+")
    name, _, numbers = (body, "", "") if body.endswith((".yaml", ".yml")) else body.partition(":")
    return Path(name).stem if name.endswith((".yaml", ".yml", ".py")) else name, numbers, plus + suffix


def _row_names(specs: Sequence[str]) -> dict[str, str]:
    """By method as it was given, the name it is reported under: ``adaskip:8+exit`` as ``adaskip+exit``.

    Where there are several budgets of a method, each keeps its own.

    Raises:
        LiteStageError: two methods would stand in the same row.
    """
    budgets: dict[str, set[str]] = {}
    for spec in specs:
        method, numbers, _ = _parts(spec)
        budgets.setdefault(method, set()).add(numbers)
    names: dict[str, str] = {}
    for spec in specs:
        method, numbers, plus = _parts(spec)
        apart = len(budgets[method]) > 1 and numbers
        name = f"{method}:{numbers}{plus}" if apart else method + plus
        other = next((one for one, known in names.items() if known == name and one != spec), None)
        if other is not None:
            raise LiteStageError(
                f"The methods {other!r} and {spec!r} would both be reported as {name!r}; rename one of the files."
            )
        names[spec] = name
    return names


def check_methods(config: RunConfig) -> None:
    """Raises LiteStageError for a method that is not known, or a plan file that does not read, before anything runs."""
    _row_names(distinct(config.methods))
    for spec in config.methods:
        body = _searched(spec)
        if body in ("litestage", QUANTISED, *RETRAINED, *config.variants):
            continue
        if body.endswith((".yaml", ".yml")):
            load_plan(body)
        elif body == "full" or (":" in body and not body.endswith(":best")):
            parse_shorthand(body)
        else:
            parse_shorthand(f"{body.removesuffix(':best')}:0")


def _budget(config: RunConfig, found: SearchResult | None, session: Session) -> int:
    """Sub-layers per stage for methods that name no budget: the searched plan's mean, made even for whole layers."""
    if config.budget is not None:
        return config.budget
    if found is None:
        return session.engine.decoder.layers // 4 * 2
    mean = sum(found.chosen.budgets.values()) / len(found.chosen.budgets)
    return 2 * round(mean / 2)


def _entrant(bench: Workbench, spec: str, found: SearchResult | None, known: Mapping[str, Entrant]) -> Entrant:
    """What a method's name stands for. ``found`` is the search of ``litestage``; ``known`` are those made so far."""
    session, pipeline = bench.session, bench.pipeline
    body = _searched(spec)
    if body in RETRAINED:
        if bench.config.model.name != "reference":
            raise LiteStageError(
                f"{body} is the reference model retrained at half the depth; it can't be compared with "
                f"{bench.config.model.name!r}."
            )
        session = open_session(bench.config, RETRAINED[body], bench.session.reusing.store)
        plan = replace(bench, session=session).plan("full" + spec.removeprefix(body))
        note = _said("retrained at half the depth", spec, plan)
        return Entrant(session.contestant(pipeline, plan), note, model=RETRAINED[body])
    if body == QUANTISED:
        in_int8 = replace(bench.config, engine=replace(bench.config.engine, weights="int8"))
        session = open_session(in_int8, bench.config.model.pretrained, bench.session.reusing.store)
        plan = replace(bench, session=session).plan("full" + spec.removeprefix(body))
        note = _said("weights in 8 bits", spec, plan)
        return Entrant(session.contestant(pipeline, plan), note, model=f"{bench.config.model.name}, int8")
    search = _search_behind(bench, body, found, known)
    if search is not None:
        plan = bench.with_suffixes(search.plan, parted(spec)[1])
        return Entrant(session.contestant(pipeline, plan), _said(_note(search, bench.config), spec, plan), search)
    if body != "full" and ":" not in body and not body.endswith((".yaml", ".yml")):
        spec = spec.replace(body, f"{body}:{_budget(bench.config, found, session)}", 1)
    method, numbers, plus = _parts(spec)
    budget = numbers.split(":")[0]
    at = (method + plus, int(budget)) if budget.isdecimal() else None
    plan = bench.plan(spec)
    return Entrant(session.contestant(pipeline, plan), _said("", spec, plan), at=at)


def _search_behind(
    bench: Workbench, body: str, found: SearchResult | None, known: Mapping[str, Entrant]
) -> SearchResult | None:
    """The search that makes a method's plan: litestage's, a variant's, or over a baseline's budgets; or None."""
    if body == "litestage":
        return found
    if body in known and known[body].search is not None:  # with the exit now, without before
        return known[body].search
    if body in bench.config.variants:
        return bench.search(variant(bench.config, body))
    return bench.best_budget(body.removesuffix(":best")) if body.endswith(":best") else None


def _said(note: str, spec: str, plan: Plan) -> str:
    """What a row says, and that it has no drafts where it was to have some."""
    without = f"drafts: {NO_DRAFTS}" if wants_drafts(spec) and not plan.drafts else ""
    return "; ".join(filter(None, [note, without]))


def _note(search: SearchResult, config: RunConfig) -> str:
    if not search.met:
        share = f"{config.search.max_accuracy_drop:.1%} of full depth"
        return f"no plan {'stayed' if search.walk is None else 'could be certified to stay'} within {share}: full depth"
    return what_it_does(search.chosen.budgets, search.chosen.exit)
