"""A pipeline: the ordered stages a question passes through, and how the answer is read from the last one.

Pipelines are YAML (``conf/pipeline/*.yaml``, or any path). Each stage has a Jinja2 prompt over ``question``,
``options`` (each with ``label`` and ``text``), ``option`` (the one at hand, in a stage that fans out) and the
outputs of all earlier stages by their names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

import jinja2
import jinja2.meta
import jinja2.sandbox
import regex

from litestage.errors import LiteStageError, did_you_mean
from litestage.stages.question import Option, Question

FAN_OUT_MODES = ("per_option", "per_option_sequential", "joint")

PATIENCE_S = 10
"""Seconds that the answer pattern may take on one text; some patterns take longer than anybody lives."""

Outputs = Mapping[str, "str | list[str]"]
"""What earlier stages wrote: one text, or one per option for a stage that fanned out."""


def as_sentence(text: str) -> str:
    """``text`` closed with a full stop unless it ends in one or in a quotation mark (TinyThinker ``trainer.py``)."""
    text = text.strip()
    return text if text.endswith((".", '"', "'")) else text + "."


_JINJA = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)
_JINJA.filters["sentence"] = as_sentence


@dataclass(frozen=True)
class Stage:
    """One generation of the pipeline.

    Attributes:
        name: what later prompts and plans call it.
        prompt: Jinja2 template.
        max_new_tokens: limit per continuation; a ``joint`` stage gets this times the number of options.
        stop: strings that end the continuation (they are not part of the text).
        fan_out: ``"options"`` for one continuation per option, else None.
        mode: how a fan-out runs: ``per_option`` (batched over the shared prompt prefix), ``per_option_sequential``
            (one after another), or ``joint`` (one continuation that covers all options).
    """

    name: str
    prompt: str
    max_new_tokens: int = 200
    stop: tuple[str, ...] = ()
    fan_out: str | None = None
    mode: str = "per_option"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise LiteStageError(f"Stage name {self.name!r} is not usable; write it in lower case, a-z, 0-9 and _.")
        if self.max_new_tokens < 1:
            raise LiteStageError(f"Stage {self.name!r} has max_new_tokens={self.max_new_tokens}; give at least 1.")
        if self.fan_out not in (None, "options"):
            raise LiteStageError(f"Stage {self.name!r} has fan_out={self.fan_out!r}; only 'options' can be fanned out.")
        if self.mode not in FAN_OUT_MODES:
            raise LiteStageError(
                f"Stage {self.name!r} has mode={self.mode!r}; {did_you_mean(self.mode, FAN_OUT_MODES)}"
            )

    @property
    def per_option(self) -> bool:
        """Whether each option gets its own continuation."""
        return self.fan_out is not None and self.mode != "joint"

    @cached_property
    def _template(self) -> jinja2.Template:
        return _JINJA.from_string(self.prompt)

    def variables(self) -> set[str]:
        """Names the prompt reads. Raises LiteStageError when the template does not parse."""
        try:
            return jinja2.meta.find_undeclared_variables(_JINJA.parse(self.prompt))
        except jinja2.TemplateSyntaxError as error:
            raise LiteStageError(
                f"The prompt of stage {self.name!r} is not valid Jinja2 ({error.message}, line {error.lineno}); "
                "mend it."
            ) from None
        except Exception as error:  # what Jinja2 makes of expressions that Python does not take
            raise LiteStageError(
                f"The prompt of stage {self.name!r} is not valid Jinja2 ({type(error).__name__}); mend it."
            ) from None

    def prompts(self, question: Question, outputs: Outputs) -> list[str]:
        """The stage's complete prompts for one question: one, or one per option.

        Raises:
            LiteStageError: the template reads what this question does not have.
        """
        context = {"question": question.text, "options": question.lettered, **outputs}
        over: tuple[Option | None, ...] = question.lettered if self.per_option else (None,)
        try:
            return [self._template.render(context, option=option) for option in over]
        except Exception as error:  # a template is a program of the user's
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LiteStageError(
                f"The prompt of stage {self.name!r} can't be made for question {question.id!r} ({reason}); mend it."
            ) from None

    def limit(self, question: Question) -> int:
        """Most tokens one continuation may have."""
        joint = self.fan_out is not None and self.mode == "joint"
        return self.max_new_tokens * (len(question.options) if joint else 1)


@dataclass(frozen=True)
class Pipeline:
    """Ordered stages and the pattern that finds the answer's letter in the last stage's text."""

    name: str
    stages: tuple[Stage, ...]
    answer: str = r"the answer is option ([A-Z])\."
    description: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.stages:
            raise LiteStageError(f"Pipeline {self.name!r} has no stages; give it at least one.")
        known = {"question", "options", "option"}
        for stage in self.stages:
            if stage.name in known:
                raise LiteStageError(f"Pipeline {self.name!r} uses the name {stage.name!r} twice; rename one stage.")
            for unknown in sorted(stage.variables() - known):
                raise LiteStageError(
                    f"The prompt of stage {stage.name!r} in pipeline {self.name!r} names {unknown!r}, which is not "
                    f"an earlier stage; {did_you_mean(unknown, known)}"
                )
            known.add(stage.name)
        try:
            groups = regex.compile(self.answer).groups
        except (regex.error, OverflowError, RecursionError) as error:
            raise LiteStageError(
                f"Pipeline {self.name!r}: answer pattern {self.answer!r} does not parse ({error}); mend it."
            ) from None
        if groups != 1:
            raise LiteStageError(f"Pipeline {self.name!r}: answer pattern {self.answer!r} needs exactly one (group).")

    @property
    def stage_names(self) -> tuple[str, ...]:
        return tuple(stage.name for stage in self.stages)

    @cached_property
    def hash(self) -> str:
        """Changes whenever a prompt, limit, stop string, mode or the answer pattern does."""
        content = {"answer": self.answer, "stages": [asdict(stage) for stage in self.stages]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def parse_answer(self, outputs: Outputs) -> str | None:
        """The letter the last stage settled on, or None when it named none.

        Raises:
            LiteStageError: the pattern takes more than `PATIENCE_S` on the text.
        """
        last = outputs[self.stages[-1].name]
        text = last if isinstance(last, str) else "\n".join(last)
        try:
            match = regex.search(self.answer, text, timeout=PATIENCE_S)
        except TimeoutError:
            raise LiteStageError(
                f"Pipeline {self.name!r}: answer pattern {self.answer!r} takes more than {PATIENCE_S} s on a text of "
                f"{len(text)} characters; write it without nested repetition."
            ) from None
        return match.group(1) if match else None

    def with_limits(self, max_new_tokens: Mapping[str, int]) -> Pipeline:
        """The same pipeline with other limits for the stages named."""
        for name in max_new_tokens:
            if name not in self.stage_names:
                raise LiteStageError(f"max_new_tokens names the stage {name!r}; {did_you_mean(name, self.stage_names)}")
        return replace(
            self,
            stages=tuple(
                replace(stage, max_new_tokens=max_new_tokens.get(stage.name, stage.max_new_tokens))
                for stage in self.stages
            ),
        )

    def with_mode(self, mode: str) -> Pipeline:
        """The same pipeline with every fan-out stage in ``mode``."""
        return replace(
            self, stages=tuple(replace(stage, mode=mode) if stage.fan_out else stage for stage in self.stages)
        )
