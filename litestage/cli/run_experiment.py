"""``litestage experiment``."""

from __future__ import annotations

from collections.abc import Sequence

from litestage.cli.output import command_line, output_folder, print_json, print_table
from litestage.cli.run_compare import compare_as
from litestage.config import load_config, load_schema, save_config


def run_experiment(name: str, overrides: Sequence[str], as_json: bool) -> None:
    """Runs an experiment, prints its table and two sentences, and writes results.json and plot.svg; or runs a grid."""
    from litestage.experiment import GRIDS, find_experiment, write_findings
    from litestage.report import read_run
    from litestage.session.workbench import Workbench
    from litestage.store.journal import until_written
    from litestage.tracking import track

    if name in GRIDS:
        config = load_config(overrides, f"experiment/{name}")
        return compare_as(config, name, command_line("experiment", name, *overrides), as_json)
    experiment = find_experiment(name)
    options = load_schema(experiment.Options, overrides, preset=f"experiment/{name}")
    bench = Workbench.open(options)
    folder = output_folder(options, name, apart_from=["search.json", "samples.jsonl"])
    with until_written(bench.session.reusing.store):
        found = experiment.run(bench, options)
        save_config(options, folder)
        content = write_findings(found, bench, name, command_line("experiment", name, *overrides), folder)
    source = found.latency.partition(":")[0].partition(",")[0]
    title = f"{content['task']}, {found.questions} questions of the {found.split} split, latency {source}"
    print_table(list(found.columns), found.table, title=title)
    print("\n".join(found.shows))
    print(f"Written to {folder}/: results.json, plot.svg")
    track(options.tracking, read_run(folder), f"experiment-{name}")
    print_json(as_json, content)
