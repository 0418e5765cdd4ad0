"""Builds a Weights & Biases report over many runs: ``python -m litestage.tracking.dashboard ENTITY/PROJECT``.

It needs ``pip install wandb-workspaces``, a W&B server, a key, and runs that were uploaded to it. Not verified: the
report is built as that package wants it (tried with 0.4.13), but whether a server takes it and shows it right
was never tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from typer import Argument

from litestage.cli import run_alone
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


def main(
    target: Annotated[str, Argument(metavar="ENTITY/PROJECT")],
    methods: str = ",".join(METHODS),
    stages: str = ",".join(STAGES),
    title: str = "LiteStage",
) -> None:
    """Builds a Weights & Biases report over many runs and prints where it is; lists are separated by commas."""
    report = dashboard(target, methods.split(","), stages.split(","), title)
    report.save()
    print(report.url)


if __name__ == "__main__":
    run_alone(main)
