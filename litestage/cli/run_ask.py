"""``litestage ask``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from litestage.cli.output import print_json, print_table
from litestage.config import load_config
from litestage.errors import LiteStageError
from litestage.methods.shorthand import wants_drafts
from litestage.plan.words import NO_DRAFTS

if TYPE_CHECKING:
    from litestage.stages import Question
    from litestage.trace import Trace


def ask(
    question: str | None, options: Sequence[str], plans: Sequence[str], overrides: Sequence[str], as_json: bool
) -> None:
    """Answers one question at full depth and under each plan; prints what every stage wrote and the seconds.

    Args:
        question: without one, the task's first test question.

    Raises:
        LiteStageError: options without a question or a question without, and whatever cannot be loaded or asked.
    """
    config = load_config(overrides)
    if (question is None) != (not options):
        raise LiteStageError("A question needs its options, and options a question: --question '...' --option a ...")
    from litestage.session.workbench import Workbench
    from litestage.stages import Question

    bench = Workbench.open(config)
    asked = bench.task.questions("test")[0] if question is None else Question("asked", question, tuple(options))
    specs = list(dict.fromkeys(["full", *plans]))
    contestants = [bench.session.contestant(bench.pipeline, bench.plan(spec)) for spec in specs]
    for contestant in contestants:
        contestant.answer([asked], timed=True)  # the first run allocates and compiles
    answers = {
        spec: contestant.answer([asked], timed=True)[0] for spec, contestant in zip(specs, contestants, strict=True)
    }
    _print(asked, answers)
    for spec, contestant in zip(specs, contestants, strict=True):
        if wants_drafts(spec) and not contestant.plan.drafts:
            print(f"{spec}, drafts: {NO_DRAFTS}.")
    if as_json:
        print_json({"question": asked.text, "options": asked.options, **{s: t.to_dict() for s, t in answers.items()}})


def _print(asked: Question, answers: dict[str, Trace]) -> None:
    print(asked.text, *(f"({each.label}) {each.text}" for each in asked.lettered), sep="\n")
    for spec, trace in answers.items():
        print(f"\n{spec}")
        for stage in trace.stages:
            for text in stage.texts:
                print(f"  {stage.name}: {text}")
    print()
    stages = next(iter(answers.values())).stages
    print_table(
        ["plan", "answer", "ms", *(f"{stage.name}, tokens" for stage in stages)],
        [
            [
                spec,
                trace.answer or "none",
                f"{1000 * (trace.latency_s or 0):.0f}",
                *(str(sum(s.tokens)) for s in trace.stages),
            ]
            for spec, trace in answers.items()
        ],
    )
    print("One run each: for figures to go by, litestage compare.")
