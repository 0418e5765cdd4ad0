"""Who takes part in a comparison: what a method's name stands for, and the row it is reported in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from litestage.comparison.another_model import AnotherModel, another_model, check_names
from litestage.config import RunConfig, SearchConfig, variant
from litestage.errors import LiteStageError
from litestage.methods.shorthand import check_spec, cut, distinct, parse_shorthand, parted, wants_drafts
from litestage.plan import Plan
from litestage.plan.words import NO_DRAFTS, Exit, what_it_does
from litestage.runner import Contestant
from litestage.search.candidate import SearchResult
from litestage.session import Session
from litestage.session.workbench import Workbench, open_session


@dataclass(frozen=True)
class Entrant:
    """A method that takes part: what answers, what its row says, the search behind it, and another model's name.

    ``at`` is the method without its budget, and the budget, where it was given one. ``session`` is another model's.
    """

    contestant: Contestant
    note: str = ""
    search: SearchResult | None = None
    model: str | None = None
    at: tuple[str, int] | None = None
    session: Session | None = None


def _parts(spec: str) -> tuple[str, str, str]:
    """A method's name without its folder; its budget with all that follows, ``8`` or ``8:1``; and its suffixes."""
    body, suffixes = cut(spec)
    name, _, numbers = (body, "", "") if body.endswith((".yaml", ".yml")) else body.partition(":")
    return Path(name).stem if name.endswith((".yaml", ".yml", ".py")) else name, numbers, suffixes


def _is_settled(body: str) -> bool:
    """Whether a method's name says all that it skips: no search has to find its budget."""
    return body == "full" or body.endswith((".yaml", ".yml")) or (":" in body and not body.endswith(":best"))


def row_names(specs: Sequence[str]) -> dict[str, str]:
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
                f"The methods {other!r} and {spec!r} would both be reported as {name!r}; rename one of the files, a "
                "plan's .safetensors with it."
            )
        names[spec] = name
    return names


def check_methods(config: RunConfig) -> None:
    """Raises LiteStageError for a method that is not known, or a plan file that does not read, before anything runs."""
    row_names(distinct(config.methods))
    check_names(config)
    for spec in config.methods:
        body = parted(spec)[0]
        if body in ("litestage", *config.variants) or another_model(config, body):
            continue
        if _is_settled(body):
            check_spec(body)
        elif body.startswith(("full-", "litestage-")):
            name = body.partition("-")[2]
            raise LiteStageError(
                f"There is no row {body!r}; give the model that it is of (other_models={{{name}: FOLDER}}), or the "
                f"search (variants={{{body}: {{...}}}})."
            )
        else:
            method, _, budget = body.removesuffix(":best").partition(":")
            if budget:
                raise LiteStageError(f"The method {spec!r} has a budget and asks for its best; write {method}:best.")
            parse_shorthand(f"{method}:0")


def waits_for_a_search(config: RunConfig, spec: str) -> bool:
    """Whether a method's plan, or the budget that it takes, is a search's, or its row another model's."""
    body = parted(spec)[0]
    return body in config.variants or not _is_settled(body)


def _budget(config: RunConfig, found: SearchResult | None, session: Session) -> int:
    """Sub-layers per stage for methods that name no budget: the searched plan's mean, made even for whole layers."""
    if config.budget is not None:
        return config.budget
    if found is None:
        return session.engine.decoder.layers // 4 * 2
    mean = sum(found.chosen.budgets.values()) / len(found.chosen.budgets)
    return 2 * round(mean / 2)


def entrant_of(bench: Workbench, spec: str, found: SearchResult | None, known: Mapping[str, Entrant]) -> Entrant:
    """What a method's name stands for. ``found`` is the search of ``litestage``; ``known`` are those made so far."""
    session, pipeline = bench.session, bench.pipeline
    body = parted(spec)[0]
    another = another_model(bench.config, body)
    if another is not None:
        return _of_another(bench, spec, another, known)
    search = _search_behind(bench, body, found, known)
    if search is not None:
        plan = bench.with_suffixes(search.plan, parted(spec)[1])
        options = variant(bench.config, body) if body in bench.config.variants else bench.config.search
        rule = bench.config.exit if "exit" in parted(spec)[1] else search.chosen.exit
        return Entrant(session.contestant(pipeline, plan), _said(_note(search, options, rule), spec, plan), search)
    if not _is_settled(body):
        spec = spec.replace(body, f"{body}:{_budget(bench.config, found, session)}", 1)
    method, numbers, plus = _parts(spec)
    budget = numbers.split(":")[0]
    at = (method + plus, int(budget)) if budget.isdecimal() else None
    plan = bench.plan(spec)
    return Entrant(session.contestant(pipeline, plan), _said("", spec, plan), at=at)


def _of_another(bench: Workbench, spec: str, another: AnotherModel, known: Mapping[str, Entrant]) -> Entrant:
    same = [entrant for entrant in known.values() if entrant.model == another.name]  # loaded and searched for once
    session = same[0].session if same else None
    session = session or open_session(another.config, another.config.model.pretrained, bench.session.reusing.store)
    theirs, search, note = replace(bench, config=another.config, session=session), None, another.note
    body, suffixes = parted(spec)
    if another.method == "litestage":
        search = next(filter(None, (entrant.search for entrant in same)), None) or theirs.search()
        plan = theirs.with_suffixes(search.plan, suffixes)
        rule = bench.config.exit if "exit" in suffixes else search.chosen.exit
        note = f"{note}; {_note(search, bench.config.search, rule)}"
    else:
        plan = theirs.plan("full" + spec.removeprefix(body))
    contestant = session.contestant(bench.pipeline, plan)
    return Entrant(contestant, _said(note, spec, plan), search, another.name, session=session)


def _search_behind(
    bench: Workbench, body: str, found: SearchResult | None, known: Mapping[str, Entrant]
) -> SearchResult | None:
    """The search that makes a method's plan: litestage's, a variant's, or over a baseline's budgets; or None."""
    if body == "litestage":
        return found
    for spec, entrant in known.items():
        if entrant.search is not None and parted(spec)[0] == body:  # with the exit now, without before
            return entrant.search
    if body in bench.config.variants:
        return bench.search(variant(bench.config, body))
    return bench.best_budget(body.removesuffix(":best")) if body.endswith(":best") else None


def _said(note: str, spec: str, plan: Plan) -> str:
    """What a row says, and that it has no drafts where it was to have some."""
    without = f"drafts: {NO_DRAFTS}" if wants_drafts(spec) and not plan.drafts else ""
    return "; ".join(filter(None, [note, without]))


def _note(search: SearchResult, options: SearchConfig, rule: Exit) -> str:
    if not search.met:
        of = "full depth's answers" if options.bound == "agreement" else "full depth"
        share = f"{options.max_accuracy_drop:.1%} of {of}"
        found = "stayed" if search.walk is None else "could be certified to stay"
        return f"no plan {found} within {share}: full depth{' with the exit rule' if rule else ''}"
    return what_it_does(search.chosen.budgets, rule)
