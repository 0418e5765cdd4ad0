"""``litestage compare`` and ``litestage demo``."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.cli.output import command_line, output_folder, print_json, print_results
from litestage.conf import named
from litestage.config import RunConfig, load_config


def run_compare(command: str, overrides: Sequence[str], as_json: bool, preset: str | None = None) -> None:
    """Compares methods, prints the table, writes results.json, its samples, plan.yaml, search.json and report.html."""
    file = preset and named("compare", preset, "comparison", hint=" Or give a YAML file.")
    config = load_config(overrides, "demo" if command == "demo" else file)
    typed = command_line(command, *(["--config", preset] if preset else []), *overrides)
    compare_as(config, command, typed, as_json)


def compare_as(config: RunConfig, command: str, typed: str, as_json: bool) -> None:
    """The same, or with ``grid`` all of its comparisons, for a command that was ``typed`` so."""
    if config.grid.given:
        from litestage.cli.run_grid import run_grid

        run_grid(config, typed, as_json)
        return
    from litestage.comparison.entrants import check_methods
    from litestage.comparison.write import compare_into, refuse_a_search
    from litestage.session.workbench import Workbench

    check_methods(config)
    bench = Workbench.open(config)
    folder = output_folder(config, command)
    refuse_a_search(folder, config)
    results, found = compare_into(folder, bench, typed, command)
    print_results(results)
    print(f"Written to {folder}/: results.json, report.html" + (", plan.yaml, search.json" if found.search else ""))
    print_json(as_json, results)
