"""``litestage search``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from litestage.cli.output import command_line, output_folder, print_json, print_table
from litestage.config import load_config
from litestage.plan.words import exit_in_short, what_it_does


def run_search(overrides: Sequence[str], as_json: bool) -> None:
    """Searches a plan, prints what was tried and writes plan.yaml and search.json."""
    config = load_config(overrides)
    from litestage.report import read_run
    from litestage.search.record import write_search
    from litestage.store.journal import until_written
    from litestage.tracking import track
    from litestage.workbench import Workbench

    bench = Workbench.open(config)
    folder = output_folder(config, "search")
    with until_written(bench.session.reusing.store):
        found = bench.search()
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
    if not found.met:
        print(
            f"No faster plan stays within {config.search.max_accuracy_drop:.1%} of full depth's "
            f"{found.full.accuracy:.1%} on the calibration questions, so the plan is full depth."
        )
    else:
        print(f"The plan {what_it_does(found.chosen.budgets, found.chosen.exit)}.")
    reusing = bench.session.reusing
    print(f"{reusing.ran} generations were run, {reusing.reused} were found in the store.")
    print(f"Written to {folder}/: plan.yaml (hash {found.plan.hash}), search.json")
    track(config.tracking, read_run(folder), "search")
    if as_json:
        print_json(
            {
                "plan": str(folder / "plan.yaml"),
                "hash": found.plan.hash,
                "met": found.met,
                "chosen": asdict(found.chosen),
                "generations": {"run": reusing.ran, "found": reusing.reused},
            }
        )
