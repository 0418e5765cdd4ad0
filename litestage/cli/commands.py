"""The commands. Heavy imports wait until a command runs, so that ``litestage --help`` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from litestage import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Staged reasoning with small language models, made fast by per-stage sub-layer skipping and early exit.",
)
plan_app = typer.Typer(no_args_is_help=True, help="Look at a plan, or check one against a model and a pipeline.")
app.add_typer(plan_app, name="plan")
store_app = typer.Typer(no_args_is_help=True, help="Look at the store of generations, or make it smaller.")
app.add_typer(store_app, name="store")
data_app = typer.Typer(no_args_is_help=True, help="Make training data for a model of your own.")
app.add_typer(data_app, name="data")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Options, e.g. task=obqa model=qwen2.5-0.5b search.max_accuracy_drop=0.04"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON line at the end.")]


def _version(show: bool) -> None:
    if show:
        print(f"litestage {__version__}")
        raise typer.Exit


@app.callback()
def litestage(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Every option is key=value; see conf/ for the names that model=, task= and engine= know."""


@app.command()
def demo(overrides: Overrides = None, json: Json = False) -> None:
    """See it work, offline: search a plan for the embedded model and compare it with the baselines on menagerie."""
    from litestage.cli.run_compare import run_compare

    run_compare("demo", overrides or [], json)


@app.command()
def compare(
    overrides: Overrides = None,
    config: Annotated[
        str | None, typer.Option(help="Options under the overrides: a name of conf/compare, or a YAML file.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare methods on a task's test split: accuracy, tokens and latency, paired against full depth."""
    from litestage.cli.run_compare import run_compare

    run_compare("compare", overrides or [], json, config)


@app.command()
def profile(overrides: Overrides = None, json: Json = False) -> None:
    """Measure sub-layer importance per stage and the seconds of a forward pass on this machine."""
    from litestage.cli.run_profile import run_profile

    run_profile(overrides or [], json)


@app.command()
def ask(
    overrides: Overrides = None,
    question: Annotated[str | None, typer.Option(help="By default the task's first test question.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the question; one for each.")] = None,
    plan: Annotated[list[str] | None, typer.Option(help="A plan file or shorthand to try beside full depth.")] = None,
    json: Json = False,
) -> None:
    """Ask one question: what every stage writes and how long it takes, at full depth and under other plans."""
    from litestage.cli.run_ask import ask

    ask(question, option or [], plan or [], overrides or [], json)


@app.command()
def search(overrides: Overrides = None, json: Json = False) -> None:
    """Find the plan of lowest latency whose accuracy stays within search.max_accuracy_drop on the calibration split."""
    from litestage.cli.run_search import run_search

    run_search(overrides or [], json)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="sensitivity, threshold, heuristics, noise, search-cost or paper.")],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Answer a question about the method: a table, a plot, results.json and two sentences of what it shows."""
    from litestage.cli.run_experiment import run_experiment

    run_experiment(name, overrides or [], json)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of compare, demo, search, profile or experiment.")],
    output: Annotated[
        Path | None, typer.Option(help="Where to; by default the run's own folder, or runs/report for several.")
    ] = None,
    json: Json = False,
) -> None:
    """Show runs: one self-contained HTML page, and the same as Markdown with its figures."""
    from litestage.cli.run_report import run_report

    run_report(runs, output, json)


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Under two minutes: fewer repeats, fewer layers.")] = False,
    output: Annotated[Path, typer.Option(help="Folder for the table, the picture and the JSON.")] = Path(
        "reports/bench"
    ),
    json: Json = False,
) -> None:
    """Measure how fast this machine is: ours beside transformers' generate and the machine's own ceiling."""
    from litestage.cli.run_bench import run_bench

    run_bench(quick, output, json)


@app.command()
def gate(
    results: Annotated[Path, typer.Argument(help="results.json of a comparison, with samples.jsonl beside it.")],
    overrides: Overrides = None,
    baseline: Annotated[Path, typer.Option(help="The committed baseline.")] = Path("reports/baseline.json"),
    update: Annotated[bool, typer.Option("--update", help="Make these results the baseline; nothing is compared.")] = (
        False
    ),
    json: Json = False,
) -> None:
    """Hold results to a baseline: exit code 1 where a figure got worse by more than noise, 2 where nothing compares."""
    from litestage.cli.run_gate import run_gate

    run_gate(results, baseline, overrides or [], update, json)


@plan_app.command("show")
def plan_show(
    plan: Annotated[str, typer.Argument(help="A plan file, or a shorthand such as uniform:8+exit.")],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Print what a plan skips in each stage."""
    from litestage.cli.run_plan import show

    show(plan, overrides or [], json)


@plan_app.command("best")
def plan_best(
    folder: Annotated[Path, typer.Argument(help="A folder that litestage search wrote.")],
    max_accuracy_drop: Annotated[float, typer.Argument(help="As a fraction, e.g. 0.01 for one point.")],
    json: Json = False,
) -> None:
    """Name the fastest plan on a search's frontier that stays within a drop in accuracy; nothing is run."""
    from litestage.cli.run_plan import best

    best(folder, max_accuracy_drop, json)


@plan_app.command("validate")
def plan_validate(
    plan: Annotated[Path, typer.Argument(help="A plan file.")], overrides: Overrides = None, json: Json = False
) -> None:
    """Check a plan file against the model and the task's pipeline; exit code 2 and one sentence if it does not fit."""
    from litestage.cli.run_plan import validate

    validate(plan, overrides or [], json)


@store_app.command("stats")
def store_stats(overrides: Overrides = None, json: Json = False) -> None:
    """Say what the result store (store=FILE) holds: records by kind, model and engine, their size, damaged ones."""
    from litestage.cli.run_store import stats

    stats(overrides or [], json)


@store_app.command("prune")
def store_prune(overrides: Overrides = None, json: Json = False) -> None:
    """Remove damaged records; with older_than_days=N what was written before; with max_mb=N the oldest beyond it."""
    from litestage.cli.run_store import prune

    prune(overrides or [], json)


@data_app.command("build")
def data_build(overrides: Overrides = None, json: Json = False) -> None:
    """Write staged training rows (recall, analyze, summarize) of task=obqa, csqa or strategyqa as JSONL."""
    from litestage.cli.run_data import build

    build(overrides or [], json)
