"""Builds a Weights & Biases report over many runs: ``python -m litestage.tracking.dashboard ENTITY/PROJECT``.

It needs ``pip install wandb-workspaces``, a W&B server, a key, and runs that were uploaded to it. Not verified: the
report is built as that package wants it (tried with 0.4.13), but whether a server takes it and shows it right
was never tried.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from litestage.errors import LiteStageError

METHODS = ("full", "uniform", "cosine", "adaskip", "litestage", "litestage+exit")
STAGES = ("recall", "analyze", "summarize")


def dashboard(target: str, methods: Sequence[str], stages: Sequence[str], title: str) -> Any:
    """The report, not saved yet: accuracy, latency and speed-up by method, tokens by stage, and every run's own page.

    Args:
        target: ``entity/project``.

    Raises:
        LiteStageError: no such target, or ``wandb-workspaces`` is not installed.
    """
    entity, slash, project = target.partition("/")
    if not slash or not entity or not project:
        raise LiteStageError(f"{target!r} is no W&B project; give it as ENTITY/PROJECT.")
    try:
        import wandb_workspaces.reports.v2 as reports
    except ImportError:
        raise LiteStageError("A W&B report needs another package: pip install wandb-workspaces.") from None

    def bars(what: str, path: str) -> Any:
        return reports.BarPlot(title=what, metrics=[f"methods/{method}/{path}" for method in methods])

    panels = [
        bars("Accuracy", "accuracy"),
        bars("Mean seconds per question", "latency_s/mean"),
        bars("Speed-up over full depth", "speedup"),
        *(bars(f"Tokens in {stage}", f"stages/{stage}/tokens") for stage in stages),
        reports.MediaBrowser(title="Accuracy against latency", media_keys=["plots/accuracy"]),
    ]
    runs = reports.Runset(entity=entity, project=project, name="runs")
    return reports.Report(
        entity=entity,
        project=project,
        title=title,
        description="LiteStage runs, method by method. Figures are those of each run's results.json.",
        blocks=[reports.PanelGrid(runsets=[runs], panels=panels)],
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m litestage.tracking.dashboard", description=__doc__)
    parser.add_argument("target", metavar="ENTITY/PROJECT")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--title", default="LiteStage")
    options = parser.parse_args(arguments)
    try:
        report = dashboard(options.target, options.methods.split(","), options.stages.split(","), options.title)
    except LiteStageError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        sys.exit(2)
    report.save()
    print(report.url)


if __name__ == "__main__":
    main()
