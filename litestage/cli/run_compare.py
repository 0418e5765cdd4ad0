"""``litestage compare`` and ``litestage demo``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litestage.cli.output import command_line, output_folder, print_json, print_table
from litestage.conf import available, find
from litestage.config import RunConfig, load_config
from litestage.errors import LiteStageError, did_you_mean

if TYPE_CHECKING:
    from litestage.workbench import Workbench


def run_compare(command: str, overrides: Sequence[str], as_json: bool, preset: str | None = None) -> None:
    """Compares methods, prints the table, writes results.json, its samples, plan.yaml, search.json and report.html."""
    config = load_config(overrides, "demo" if command == "demo" else preset and _comparison(preset))
    typed = command_line(command, *(["--config", preset] if preset else []), *overrides)
    compare_as(config, command, typed, as_json)


def compare_as(config: RunConfig, command: str, typed: str, as_json: bool) -> None:
    """The same, or with ``grid`` all of its comparisons, for a command that was ``typed`` so."""
    if config.grid.given:
        from litestage.cli.run_grid import run_grid

        run_grid(config, typed, as_json)
        return
    from litestage.compare import check_methods
    from litestage.workbench import Workbench

    check_methods(config)
    bench = Workbench.open(config)
    folder = output_folder(config, command)
    results = compare_into(folder, bench, typed, command)
    if as_json:
        print_json(results)


def compare_into(folder: Path, bench: Workbench, typed: str, job: str = "compare") -> dict[str, Any]:
    """Compares the configuration's methods and writes everything into ``folder``; returns what is in results.json.

    Args:
        typed: the command that does this again.
        job: what a tracker calls it.
    """
    from litestage.cli.run_profile import write_known_importance
    from litestage.compare import compare
    from litestage.ranks import here
    from litestage.report import read_run, write_report
    from litestage.results import write_results
    from litestage.samples import write_samples
    from litestage.search.record import write_search
    from litestage.store.journal import until_written
    from litestage.tracking import track

    with until_written(bench.session.reusing.store):
        found = compare(bench)
        results = {**found.results, "command": typed}
        write_samples(found.questions, found.measured, folder)
        if found.search:
            write_search(found.search, folder)
        profiled = write_known_importance(bench, folder)
        write_results(results, folder / "results.json")
    run = read_run(folder)
    run = replace(run, search=run.search if found.search else None, profile=run.profile if profiled else None)
    if here().rank == 0:
        write_report([run], folder)
    print_results(results)
    print(f"Written to {folder}/: results.json, report.html" + (", plan.yaml, search.json" if found.search else ""))
    track(bench.config.tracking, run, job)
    return results


def _comparison(name: str) -> Path:
    """The YAML file that ``--config`` names."""
    path = find("compare", name)
    if path is None:
        raise LiteStageError(
            f"There is no comparison {name!r}; {did_you_mean(name, available('compare'))} Or give a YAML file."
        )
    return path


def print_results(results: dict[str, Any]) -> None:
    """The comparison as a table, one method a row."""
    from litestage.report.tables import certified, share

    stages = list(results["methods"][0]["stages"])
    rows = []
    for method in results["methods"]:
        low, high = method["accuracy_drop_ci95"]
        row = [
            method["name"],
            f"{method['accuracy']:.1%}",
            f"{method['accuracy_drop'] * 100:+.1f} [{low * 100:+.1f}, {high * 100:+.1f}]",
            share(method["agreement"], method["agreement_ci95"]),
            certified(method, results["methods"][0]),
        ]
        if "latency_s" in method:
            fast, slow = method["speedup_ci95"]
            row += [f"{method['latency_s']['mean'] * 1000:.1f}", f"{method['speedup']:.2f}x [{fast:.2f}, {slow:.2f}]"]
        else:
            row += ["", ""]
        row.append(" / ".join(f"{method['stages'][stage]['tokens']:.1f}" for stage in stages))
        skipped = [method["stages"][stage]["skipped"] for stage in stages]
        row.append(" / ".join(f"{s['mhsa']}+{s['ffn']}" for s in skipped))
        rows.append(row)
    by_stage = " / ".join(stages)
    print_table(
        [
            "method",
            "accuracy",
            "drop, points [95 %]",
            "same answers [95 %]",
            "certified",
            "ms",
            "speed-up [95 %]",
            f"tokens per stage\n{by_stage}",
            "skipped per stage\nattention+FFN",
        ],
        rows,
        title=f"{results['task']}, {results['n']} test questions, {results['model']['name']} "
        f"on {results['environment']['hardware']}",
    )
    if not any("latency_s" in method for method in results["methods"]):
        print(f"Latency: {results['latency_measured']}.")
