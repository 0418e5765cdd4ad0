"""``litestage data build``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litestage.atomic import writable
from litestage.cli.output import print_json, print_table
from litestage.errors import LiteStageError, at_least
from litestage.overrides import configure

if TYPE_CHECKING:
    from litestage.stages.gold import StagedRow


@dataclass
class DataConfig:
    """Options of ``litestage data build``.

    Attributes:
        task: obqa, csqa or strategyqa, or one's own task over the same data sets.
        output: the JSONL file; ``runs/data/<task>.jsonl`` unless given.
        questions: at most so many.
    """

    task: str = "obqa"
    output: str | None = None
    questions: int | None = None


def build(overrides: Sequence[str], as_json: bool) -> None:
    """Writes staged training rows and says how many, and what was left out and why."""
    config = configure(DataConfig, [], overrides)
    at_least(1, questions=config.questions)
    from litestage.data import load_task
    from litestage.data.build import build
    from litestage.stages.gold import write_staged

    task = load_task(config.task)
    output = Path(config.output or f"runs/data/{task.name}.jsonl")
    if output.suffix != ".jsonl":
        raise LiteStageError(f"output is {config.output!r}; give a file that ends in .jsonl.")
    writable(output.parent)
    built = build(task, config.questions)
    write_staged(built.rows, output)
    rows = {
        stage: sum(len(row.gold[stage]) if isinstance(row.gold[stage], list) else 1 for row in built.rows)
        for stage in built.rows[0].gold
    }
    print_table(["stage", "rows"], [[stage, str(count)] for stage, count in rows.items()])
    for reason, count in built.left_out.items():
        print(f"Left out: {count} ({reason}).")
    print(shares(built.rows))
    print(f"{task.name}: {len(built.rows)} questions of the training split, written to {output}")
    print_json(
        as_json,
        {
            "output": str(output),
            "questions": len(built.rows),
            "rows": rows,
            "left_out": dict(built.left_out),
            "alike": built.alike,
        },
    )


def shares(rows: Sequence[StagedRow]) -> str:
    """How often each label is the answer, and how often an analysis ends in each verdict, in one line."""
    labels = Counter(str(row.question.answer) for row in rows)
    verdicts = Counter(text.rsplit(maxsplit=1)[-1].rstrip(".") for row in rows for text in row.gold["analyze"])

    def told(counts: Counter[str]) -> str:
        return ", ".join(f"{name} {count / counts.total():.0%}" for name, count in sorted(counts.items()))

    return f"Answers: {told(labels)}. Verdicts: {told(verdicts)}."
