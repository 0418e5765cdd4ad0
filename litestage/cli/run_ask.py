"""``litestage ask``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from litestage.cli.output import print_json, print_table, say_unused
from litestage.config import SearchConfig, load_config
from litestage.errors import LiteStageError
from litestage.methods.shorthand import check_spec, wants_drafts
from litestage.plan.words import NO_DRAFTS

if TYPE_CHECKING:
    from litestage.trace import Trace

SOON = ("search.calibration=24", "search.confirm=0")
"""An answer should come soon: what a plan takes from calibration questions, it takes from so few."""


def ask(
    question: str | None, options: Sequence[str], plans: Sequence[str], overrides: Sequence[str], as_json: bool
) -> None:
    """Answers one question at full depth and under each plan; prints what every stage wrote, soon, and the seconds.

    Args:
        question: without one, the task's first test question.

    Raises:
        LiteStageError: options without a question or a question without, and whatever cannot be loaded or asked.
    """
    given = any(override.startswith("search.") for override in overrides)
    config = load_config(overrides if given else [*SOON, *overrides])
    say_unused("ask", overrides)
    if (question is None) != (not options):
        raise LiteStageError("A question needs its options, and options a question: --question '...' --option a ...")
    from litestage.session.workbench import Workbench
    from litestage.stages import Question

    for spec in plans:
        check_spec(spec)  # a mistake is told before anything is loaded or answered
    own = None if question is None else Question("asked", question, tuple(options))
    bench = Workbench.open(config)
    asked = own or bench.task.questions("test")[0]
    print(asked.text, *(f"({each.label}) {each.text}" for each in asked.lettered), sep="\n")
    answers: dict[str, Trace] = {}
    for spec in dict.fromkeys(["full", *plans]):
        contestant = bench.session.contestant(bench.pipeline, bench.plan(spec))
        contestant.answer([asked], timed=True)  # the first run allocates and compiles
        answers[spec] = contestant.answer([asked], timed=True)[0]
        _print_texts(spec, answers[spec])
        if why := contestant.why_not_answered(answers[spec]):
            print(f"  no answer: {why}")
        if wants_drafts(spec) and not contestant.plan.drafts:
            print(f"  drafts: {NO_DRAFTS}")
    _print_table(answers)
    print("One run each: for figures to go by, litestage compare.")
    if len(answers) > 1 and not given:
        print(
            f"What a plan takes from calibration, it took from {config.search.calibration} questions, for an answer "
            f"soon; search.calibration={SearchConfig().calibration} takes as many as other commands do."
        )
    print_json(
        as_json, {"question": asked.text, "options": asked.options, **{s: t.to_dict() for s, t in answers.items()}}
    )


def _print_texts(spec: str, trace: Trace) -> None:
    print(f"\n{spec}")
    for stage in trace.stages:
        for text in stage.texts:
            print(f"  {stage.name}: {text}", flush=True)


def _print_table(answers: Mapping[str, Trace]) -> None:
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
