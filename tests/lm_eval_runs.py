"""lm-eval in this process."""

from pathlib import Path

from litestage.conf import folder


def lite_stage(**arguments):
    """The model as lm-eval makes it, on a CPU."""
    from litestage.harness.lm import LiteStageLM

    return LiteStageLM(**{"device": "cpu", **arguments})


def evaluate(model, *tasks: str, include: Path | None = None, limit: int = 2, metadata: dict | None = None, **more):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(include or folder("tasks")), include_defaults=False, metadata=metadata)
    return simple_evaluate(model, tasks=list(tasks), limit=limit, task_manager=manager, bootstrap_iters=0, **more)


def reported(results: dict, task: str) -> dict[str, float]:
    return {
        key.removesuffix(",none"): value for key, value in results["results"][task].items() if key.endswith(",none")
    }
