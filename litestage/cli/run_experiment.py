"""``litestage experiment``."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.cli.output import command_line, output_folder, print_json, print_table
from litestage.config import load_schema


def run_experiment(name: str, overrides: Sequence[str], as_json: bool) -> None:
    """Runs an experiment, prints its table and two sentences, and writes results.json and plot.svg."""
    from litestage.experiment import find_experiment, write_findings
    from litestage.report import read_run
    from litestage.tracking import track
    from litestage.workbench import Workbench

    experiment = find_experiment(name)
    config = load_schema(experiment.options, overrides, preset=f"experiment/{name}")
    bench = Workbench.open(config)
    folder = output_folder(config, name)
    found = experiment.run(bench, config)
    content = write_findings(found, bench, name, command_line("experiment", name, *overrides), folder)
    source = found.latency.partition(":")[0].partition(",")[0]
    title = f"{content['task']}, {found.questions} questions of the {found.split} split, latency {source}"
    print_table(found.columns, found.table, title=title)
    print("\n".join(found.shows))
    print(f"Written to {folder}/: results.json, plot.svg")
    track(config.tracking, read_run(folder), f"experiment-{name}")
    if as_json:
        print_json(content)
