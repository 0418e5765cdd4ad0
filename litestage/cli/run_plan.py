"""``litestage plan show``, ``plan validate`` and ``plan best``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from litestage.cli.output import print_json, print_table
from litestage.config import load_config
from litestage.errors import LiteStageError
from litestage.methods.shorthand import wants_drafts
from litestage.plan import Plan, SkipSet, load_plan
from litestage.plan.file import plan_to_dict
from litestage.plan.schedule import step_sets
from litestage.plan.words import NO_DRAFTS


def show(spec: str, overrides: Sequence[str], as_json: bool) -> None:
    """Prints a plan. A file is read alone; a shorthand is resolved for the configured model and task."""
    config = load_config(overrides)
    if spec.endswith((".yaml", ".yml")):
        plan = load_plan(spec)
    else:
        from litestage.session.workbench import Workbench

        bench = Workbench.open(config)
        plan = bench.plan(spec)
    _print(plan)
    if wants_drafts(spec) and not plan.drafts:
        print(f"Drafts: {NO_DRAFTS}.")
    if plan.certificate:
        print(plan.certificate)
    elif spec.endswith((".yaml", ".yml")):
        print("It has no certificate: nobody tested what it loses on questions that its search had not seen.")
    print_json(as_json, {"hash": plan.hash, **plan_to_dict(plan)})


def validate(path: Path, overrides: Sequence[str], as_json: bool) -> None:
    """Checks a plan file against the configured model and task."""
    config = load_config(overrides)
    if path.suffix not in (".yaml", ".yml"):
        raise LiteStageError(f"{str(path)!r} is no plan file, whose name ends in .yaml; see litestage plan show.")
    load_plan(path)  # a malformed file is told before a model is loaded
    from litestage.session.workbench import Workbench

    bench = Workbench.open(config)
    plan = bench.session.plan(str(path), bench.task, bench.pipeline)
    print(f"{path} fits {config.model.name} and the pipeline {bench.pipeline.name} (hash {plan.hash}).")
    print_json(as_json, {"hash": plan.hash, "model": config.model.name, "pipeline": bench.pipeline.name, "valid": True})


def best(folder: Path, max_accuracy_drop: float, as_json: bool) -> None:
    """Prints the file of the fastest plan within the drop."""
    from litestage.search.record import best_within

    path, entry = best_within(folder, max_accuracy_drop)
    budgets = " / ".join(f"{stage} {budget}" for stage, budget in entry["budgets"].items())
    if entry["on"] == "agreement":
        loses = f"{(1 - entry.get('agreement', 1)) * 100:.1f} % of answers changed"
    else:
        loses = f"{entry['accuracy_drop'] * 100:+.1f} points"
    print(
        f"{path}: skips {budgets}; predicted {entry['latency_s'] * 1000:.1f} ms, {loses} on the calibration questions "
        f"(90 % sure: at most {entry['accuracy_drop_upper'] * 100:.1f})."
    )
    print(load_plan(path).certificate or "It is not certified: of many plans tried, the search keeps a lucky one.")
    print_json(as_json, {"plan": str(path), **entry})


def _print(plan: Plan) -> None:
    rows = []
    for name, stage in plan.stages.items():
        others = [str(stage.exit or "none"), str(stage.draft or "none")]
        rows.append([name, *_skipped(stage.skip), stage.phase, stage.compensation, *others])
        for start, skip in step_sets(stage.schedule):
            rows.append([f"{name}, from new token {start}", *_skipped(skip), "", "", "", ""])
        if stage.schedule and "online" in stage.schedule:
            online = stage.schedule["online"]
            added = f"and those of mean cosine >= {online['threshold']:.4f}"
            rows.append([f"{name}, from new token {online['observe'] + 1}", "as before", added, "", "", "", ""])
    print_table(
        ["stage", "attention skipped", "FFN skipped", "phase", "compensation", "exit", "drafts"],
        rows,
        title=f"Plan {plan.hash}",
    )
    if plan.prefix_cache:
        print("A stage begins with the keys and values that the one before left, where both run the same sub-layers.")


def _skipped(skip: SkipSet) -> list[str]:
    """The layers without attention, and those without FFN."""
    return [" ".join(map(str, layers)) or "none" for layers in (skip.mhsa, skip.ffn)]
