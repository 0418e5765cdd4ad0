"""Tasks: where their questions come from, which of them are for calibration and which for test, and their pipeline."""

from litestage.data.task import Split, Task, load_task

__all__ = ["Split", "Task", "load_task"]
