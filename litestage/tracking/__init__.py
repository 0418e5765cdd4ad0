"""Runs in an experiment tracker, beside their folder: ``tracking=wandb``. What is tracked is read from the folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from litestage.ranks import here

if TYPE_CHECKING:
    from litestage.report import Run


def track(tracker: str, run: Run, job: str) -> None:
    """Logs a finished run to the tracker, and says where. Never fatal: what fails is said, the run goes on.

    Args:
        tracker: ``none`` or ``wandb``.
        job: the command, by which a dashboard of many runs tells them apart.
    """
    if tracker == "none" or here().rank != 0:
        return
    try:
        from litestage.tracking.wandb_run import log_run

        print(log_run(run, job))
    except Exception as error:  # whatever a tracker, its server or its files do, the results are written already
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"litestage: W&B did not take the run ({reason}); all results are in {run.folder}/.", file=sys.stderr)


__all__ = ["track"]
