"""``litestage search``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from litestage.cli.output import command_line, output_folder, print_json, print_table, say_unused
from litestage.config import SearchConfig, load_config, save_config
from litestage.plan.certificate import counted
from litestage.plan.words import NO_DRAFTS, exit_in_short, what_it_does
from litestage.stats import Bound

if TYPE_CHECKING:
    from litestage.search.candidate import SearchResult


def run_search(overrides: Sequence[str], as_json: bool) -> None:
    """Searches a plan, prints what was tried and writes plan.yaml and search.json."""
    config = load_config(overrides)
    say_unused("search", overrides)
    from litestage.report import read_run
    from litestage.search.record import write_search
    from litestage.session.workbench import Workbench
    from litestage.store.journal import until_written
    from litestage.tracking import track

    bench = Workbench.open(config)
    folder = output_folder(config, "search", apart_from=["results.json"])
    with until_written(bench.session.reusing.store):
        found = bench.search()
        save_config(config, folder)
        write_search(found, folder, command_line("search", *overrides))
    stages = bench.pipeline.stage_names
    rows = [
        [
            " / ".join(str(candidate.budgets[stage]) for stage in stages) + exit_in_short(candidate.exit),
            f"{candidate.accuracy:.1%}",
            f"{candidate.agreement:.1%}",
            f"{candidate.latency_s * 1000:.1f}",
            f"{candidate.tokens:.1f}",
            candidate.verdict,
        ]
        for candidate in found.candidates
    ]
    print_table(
        [f"skipped: {' / '.join(stages)}", "accuracy", "same answers", "predicted ms", "tokens", "verdict"], rows
    )
    if found.met:
        print(f"The plan {what_it_does(found.chosen.budgets, found.chosen.exit)}.")
        print(found.plan.certificate or "It is not certified: no questions were kept for that (search.confirm).")
    else:
        print(_why_full_depth(found, config.search))
    if config.search.draft != "none":
        drafts = "; ".join(f"{stage}, {draft}" for stage, draft in found.plan.drafts.items())
        print(f"Drafts: {drafts or NO_DRAFTS}.")
    reusing = bench.session.reusing
    print(f"{reusing.ran} generations were run, {reusing.reused} were found in the store.")
    print(f"Written to {folder}/: plan.yaml (hash {found.plan.hash}), search.json")
    track(config.tracking, read_run(folder), "search")
    print_json(
        as_json,
        {
            "plan": str(folder / "plan.yaml"),
            "hash": found.plan.hash,
            "met": found.met,
            "chosen": asdict(found.chosen),
            "generations": {"run": reusing.ran, "found": reusing.reused},
        },
    )


def _why_full_depth(found: SearchResult, search: SearchConfig) -> str:
    """Why a search ended with full depth, in a sentence."""
    of = "answers" if search.bound == "agreement" else f"{found.full.accuracy:.1%}"
    share = f"within {search.max_accuracy_drop:.1%} of full depth's {of}"
    fewest = Bound(search.max_accuracy_drop, search.confidence, search.bound).fewest
    if found.walk is not None and fewest is not None and found.walk.questions < fewest:
        few = f"{found.walk.questions} confirming questions are too few"
        return f"No plan could be certified to stay {share}, as {few}, so the plan is full depth."
    if found.walk is None or not found.walk.steps:
        return f"No faster plan stays {share} on the calibration questions, so the plan is full depth."
    step = found.walk.steps[0]
    return (
        f"No faster plan could be certified to stay {share}: of the first of the walk, "
        f"{counted(search.bound, step.lost, step.gained)} of {step.asked} confirming questions (p = {step.p:.3g}), so "
        "the plan is full depth."
    )
