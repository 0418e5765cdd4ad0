"""``litestage gate``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import typer

from litestage.cli.output import print_json, print_table
from litestage.errors import LiteStageError
from litestage.overrides import configure


def run_gate(results: Path, baseline: Path, overrides: Sequence[str], update: bool, as_json: bool) -> None:
    """Compares results with a baseline; exit code 1 and a sentence each where a figure got worse by more than noise."""
    from litestage.gate import GateOptions, judge, read_record, write_baseline
    from litestage.gate.summary import COLUMNS, as_data, as_markdown, rows, sentences

    options = configure(GateOptions, [], overrides)
    after = read_record(results)
    if update:
        write_baseline(after, baseline)
        behind = "" if after.samples else ", without samples: later runs can't be paired with it"
        print(f"Written to {baseline}: {len(after.methods)} methods, {after.results['n']} questions{behind}.")
        print_json(as_json, {"baseline": str(baseline), "methods": list(after.methods)})
        return
    if not baseline.is_file():
        raise LiteStageError(f"There is no baseline {str(baseline)!r}; make one with --update and commit it.")
    verdict = judge(read_record(baseline), after, options)
    print_table(COLUMNS, rows(verdict), title=f"{results} against {baseline}")
    print("\n".join(sentences(verdict)))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(as_markdown(verdict, str(baseline)))
    print_json(as_json, as_data(verdict))
    if not verdict.passed:
        raise typer.Exit(1)
