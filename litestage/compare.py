"""Compares methods on one task: accuracy on every test question, latency one question at a time, interleaved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestage.config import RunConfig
from litestage.environment import environment
from litestage.errors import LiteStageError
from litestage.plan import Plan
from litestage.results import Measured, summarise
from litestage.runner import Contestant, run
from litestage.search import SearchResult
from litestage.session import Session
from litestage.workbench import Workbench, open_session

RETRAINED = {"full-half": "reference-half"}
"""Rows that are another model at full depth: the reference recipe trained at half the depth."""


@dataclass(frozen=True)
class Comparison:
    """What ``compare`` found: results.json's content, the methods' plans, and the search, if there was one."""

    results: dict[str, Any]
    plans: dict[str, Plan]
    search: SearchResult | None


def compare(bench: Workbench, journal: Path | None = None) -> Comparison:
    """Runs every method of the configuration on the test split."""
    config, session = bench.config, bench.session
    names = ["full", *[name for name in config.methods if name != "full"]]
    found = bench.search() if any(_is_searched(name) for name in names) else None
    budget = _budget(config, found, session)
    contestants, notes = {}, {}
    for spec in names:
        contestants[spec], notes[spec] = _contestant(bench, spec, found, budget)
    contestants = {_row_name(spec): contestant for spec, contestant in contestants.items()}
    questions = bench.task.questions("test")[: config.questions]
    accuracy = {
        name: run(questions, {name: contestant}, batch_size=config.engine.batch_size, progress=f"{name}: accuracy")[
            name
        ]
        for name, contestant in contestants.items()
    }
    timed = questions[: config.latency_questions]
    latency = run(timed, contestants, timed=True, journal=journal, progress="latency, one at a time") if timed else {}
    measured = {
        _row_name(spec): Measured(
            contestants[_row_name(spec)].plan, accuracy[_row_name(spec)], latency.get(_row_name(spec), ()), notes[spec]
        )
        for spec in names
    }
    results = {
        "task": f"{bench.task.name}_multistage",
        "split": "test",
        "n": len(questions),
        "pipeline": {"name": bench.pipeline.name, "hash": bench.pipeline.hash},
        "model": {"name": config.model.name, "fingerprint": session.loaded.fingerprint},
        "environment": environment(session.engine),
        "latency_measured": "one question at a time, methods interleaved, after a warm-up",
        "methods": summarise(measured),
    }
    return Comparison(results, {name: contestant.plan for name, contestant in contestants.items()}, found)


def _is_searched(spec: str) -> bool:
    return spec.removesuffix("+exit") == "litestage"


def _row_name(spec: str) -> str:
    """The method's name without its budget: ``adaskip:8+exit`` is reported as ``adaskip+exit``."""
    body, plus, suffix = spec.partition("+")
    return (
        body.split(":")[0] + plus + suffix if not body.endswith((".yaml", ".yml")) else Path(body).stem + plus + suffix
    )


def _budget(config: RunConfig, found: SearchResult | None, session: Session) -> int:
    """Sub-layers per stage for methods that name no budget: the searched plan's mean, made even for whole layers."""
    if config.budget is not None:
        return config.budget
    if found is None:
        return session.engine.decoder.layers // 4 * 2
    mean = sum(found.chosen.budgets.values()) / len(found.chosen.budgets)
    return 2 * round(mean / 2)


def _contestant(bench: Workbench, spec: str, found: SearchResult | None, budget: int) -> tuple[Contestant, str]:
    """The contestant a method's name stands for, and a note for its row."""
    session, pipeline = bench.session, bench.pipeline
    if spec in RETRAINED:
        if bench.config.model.name != "reference":
            raise LiteStageError(
                f"{spec} is the reference model retrained at half the depth; it can't be compared with "
                f"{bench.config.model.name!r}."
            )
        session = open_session(bench.config, RETRAINED[spec], bench.session.reusing.store)
        return session.contestant(pipeline, Plan.full(pipeline.stage_names)), "retrained at half the depth"
    if _is_searched(spec):
        assert found is not None
        plan = found.plan.with_exit(bench.exit_rule) if spec.endswith("+exit") else found.plan
        return session.contestant(pipeline, plan), "" if found.met else "no plan met the accuracy bound: full depth"
    body, plus, suffix = spec.partition("+")
    if body not in ("full",) and ":" not in body and not body.endswith((".yaml", ".yml")):
        spec = f"{body}:{budget}{plus}{suffix}"
    plan = session.plan(spec, bench.task, pipeline, bench.exit_rule)
    return session.contestant(pipeline, plan), ""
