"""Worked examples: questions with what every stage should write, shown before the question that is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litestage.errors import LiteStageError
from litestage.stages.question import Question


@dataclass(frozen=True)
class Example:
    """A question and its texts by stage.

    Attributes:
        question: with its answer.
        texts: by stage, one text, or one per option where the stage fans out.
        option: letter of the option that it shows where a stage asks of each option apart.
    """

    question: Question
    texts: Mapping[str, str | tuple[str, ...]]
    option: str

    def check(self, stage: str, fans_out: bool) -> None:
        """Raises LiteStageError unless there is what the stage should write."""
        text, count = self.texts.get(stage), len(self.question.options)
        if (isinstance(text, str) and not fans_out) or (isinstance(text, tuple) and fans_out and len(text) == count):
            return
        wanted = f"a list of {count} texts, one per option," if fans_out else "one text"
        raise LiteStageError(f"The example {self.question.text!r} needs {wanted} under {stage!r}; add it.")


def example_of(raw: Mapping[str, Any], at: int) -> Example:
    """From a pipeline's YAML: ``question``, ``options``, ``answer``, if wanted ``option``, and a text per stage.

    Raises:
        LiteStageError: what is needed is not there.
    """
    texts = dict(raw)
    missing = [name for name in ("question", "options", "answer") if name not in texts]
    if missing:
        raise LiteStageError(f"Example {at} has no {missing[0]!r}; give its question, options and answer.")
    text, options, answer = (texts.pop(name) for name in ("question", "options", "answer"))
    question = Question(f"example {at}", str(text), tuple(map(str, options)), str(answer))
    option = str(texts.pop("option", answer))
    if option not in question.labels:
        raise LiteStageError(f"Example {at} shows the option {option!r}; its options are {', '.join(question.labels)}.")
    return Example(question, {name: _frozen(value) for name, value in texts.items()}, option)


def _frozen(value: object) -> str | tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
