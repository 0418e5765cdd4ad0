"""Worked examples: questions with what every stage should write, shown before the question that is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


def example_of(raw: object, at: int) -> Example:
    """From a pipeline's YAML: ``question``, ``options``, ``answer``, if wanted ``option``, and a text per stage.

    Raises:
        LiteStageError: what is needed is not there.
    """
    if not isinstance(raw, Mapping):
        raise LiteStageError(f"Example {at} is {raw!r}; write its question, options, answer and a text per stage.")
    missing = [name for name in ("question", "options", "answer") if name not in raw]
    if missing:
        raise LiteStageError(f"Example {at} has no {missing[0]!r}; give its question, options and answer.")
    read = {name: _texts(value, at) for name, value in raw.items()}
    text, options, answer = (read.pop(name) for name in ("question", "options", "answer"))
    if isinstance(options, str):
        raise LiteStageError(f"Example {at} has the options {options!r}; give a list, one text per option.")
    question = Question(f"example {at}", str(text), options, str(answer))
    option = str(read.pop("option", answer))
    if option not in question.labels:
        raise LiteStageError(f"Example {at} shows the option {option!r}; its options are {', '.join(question.labels)}.")
    return Example(question, read, option)


def _texts(value: object, at: int) -> str | tuple[str, ...]:
    """A text, or several. Numbers are written out; ``yes`` and ``no`` YAML has already made something else of."""
    if isinstance(value, list | tuple):
        return tuple(str(_texts(each, at)) for each in value)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise LiteStageError(f"Example {at} has {value!r} where a text is due; put the text in quotes.")
    return str(value)
