"""One Weights & Biases run from one run folder.

Project, entity, group, name and mode are W&B's own environment variables (``WANDB_PROJECT``, ``WANDB_RUN_GROUP``, ...).
Without a key, and unless ``WANDB_MODE`` says otherwise, the run stays offline in the run folder.
"""

from __future__ import annotations

import os
import tempfile
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from litestage.report import Run, pictures
from litestage.tracking.figures import figures, setting, tables

PROJECT = "litestage"
PATIENCE_S = 30
"""How long a server may take to answer before the run goes offline."""
ARTIFACTS = {
    "results": (
        "results.json",
        "samples.jsonl",
        "traces.jsonl",
        "search.json",
        "profile.json",
        "report.html",
        "plot.svg",
        "config.yaml",
    ),
    "plan": ("plan.yaml", "plan.safetensors"),
}
"""By type, what is kept of a run folder."""


def log_run(run: Run, job: str) -> str:
    """Logs configuration, figures, tables, plots and files; returns a sentence that says where they are."""
    mode = mode_to_use()
    try:
        tracked, note = _started(run, job, mode), ""
    except Exception as error:
        if mode != "online":
            raise
        reason = " ".join(str(error).split())
        tracked, note = _started(run, job, "offline"), f" W&B could not be reached ({reason}), so it is offline."
    with tracked:
        tracked.summary.update(figures(run))
        with tempfile.TemporaryDirectory() as folder:
            tracked.log({**_tables(run), **_plots(run, Path(folder))})
            _keep_files(tracked, run)
            tracked.finish()  # before the pictures' folder goes
    if tracked.offline:
        return f"Tracked offline; to upload: wandb sync {Path(tracked.dir).parent}.{note}"
    return f"Tracked at {tracked.url}."


def mode_to_use() -> str:
    """``WANDB_MODE``, or else online with a key and offline without."""
    return os.environ.get("WANDB_MODE") or ("online" if _has_key() else "offline")


def _has_key() -> bool:
    """Whether W&B would find a key: in its variables, or where ``wandb login`` leaves it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _started(run: Run, job: str, mode: str) -> Any:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # crash reports to W&B; read when wandb is imported
    import wandb

    content = run.comparison or run.experiment
    group = f"{content['task']}-{content['model']['name']}" if content else None
    return wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        group=os.environ.get("WANDB_RUN_GROUP", group),
        job_type=os.environ.get("WANDB_JOB_TYPE", job),
        name=os.environ.get("WANDB_NAME", run.name),
        dir=os.environ.get("WANDB_DIR", str(run.folder)),
        config=setting(run),
        settings=wandb.Settings(
            mode=mode, silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=PATIENCE_S
        ),
    )


def _tables(run: Run) -> dict[str, Any]:
    import wandb

    made = {
        name: wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
        for name, (columns, rows) in tables(run).items()
    }
    methods = made.get("methods_table")
    if methods is not None and "latency_ms" in methods.columns:
        title = "Accuracy against latency"
        made["accuracy_against_latency"] = wandb.plot.scatter(methods, "latency_ms", "accuracy", title=title)
    return made


def _plots(run: Run, folder: Path) -> dict[str, Any]:
    import wandb

    plots: dict[str, Any] = {
        f"plots/{picture.name}": wandb.Image(
            str(picture.write_png(folder)), caption=f"{picture.title}. {picture.caption}"
        )
        for picture in pictures(run)
    }
    page = run.folder / "report.html"
    if page.is_file():
        plots["report"] = wandb.Html(page.read_text(encoding="utf-8"), inject=False)
    return plots


def _keep_files(tracked: Any, run: Run) -> None:
    import wandb

    for kind, names in ARTIFACTS.items():
        files = [run.folder / name for name in names if (run.folder / name).is_file()]
        if files:
            artifact = wandb.Artifact(f"{run.name}-{kind}", type=kind)
            for file in files:
                artifact.add_file(str(file), name=file.name)
            tracked.log_artifact(artifact)
