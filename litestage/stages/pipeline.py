"""A pipeline: the ordered stages a question passes through, and how the answer is read from the last one.

Pipelines are YAML (``conf/pipeline/*.yaml``, or any path). Each stage has a Jinja2 prompt over ``question``,
``options`` (each with ``label`` and ``text``), ``option`` (the one at hand, in a stage that fans out) and the
outputs of all earlier stages by their names. With ``reply`` (how the model's answer begins) or ``examples`` a stage is
a chat: the prompt is the user's turn, and every worked example a user's and an assistant's turn before it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from logging import getLogger
from string import ascii_uppercase
from typing import Any

import jinja2
import jinja2.meta
import regex

from litestage.errors import LiteStageError, did_you_mean, known_stages, one_of
from litestage.stages.example import Example
from litestage.stages.prompt import Prompt, Turn
from litestage.stages.question import Option, Question
from litestage.stages.template import JINJA, Written, as_sentence

CHOICES = ("none", "likelihood")
FAN_OUT_MODES = ("per_option", "per_option_sequential", "joint")

PATIENCE_S = 10
"""Seconds that the answer pattern may take on one text; some patterns take longer than anybody lives."""

Outputs = Mapping[str, "str | list[str]"]
"""What earlier stages wrote: one text, or one per option for a stage that fanned out."""


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
    reply: str = ""
    examples: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise LiteStageError(f"Stage name {self.name!r} is not usable; write it in lower case, a-z, 0-9 and _.")
        if self.max_new_tokens < 1:
            raise LiteStageError(f"Stage {self.name!r} has max_new_tokens={self.max_new_tokens}; give at least 1.")
        if self.fan_out not in (None, "options"):
            raise LiteStageError(f"Stage {self.name!r} has fan_out={self.fan_out!r}; only 'options' can be fanned out.")
        one_of(f"The mode of stage {self.name!r}", self.mode, FAN_OUT_MODES)
        if self.fan_out is None and self.mode != FAN_OUT_MODES[0]:
            raise LiteStageError(f"Stage {self.name!r} has mode={self.mode!r} and no fan_out; add fan_out: options.")

    @property
    def per_option(self) -> bool:
        """Whether each option gets its own continuation."""
        return self.fan_out is not None and self.mode != "joint"

    @cached_property
    def _templates(self) -> tuple[jinja2.Template, jinja2.Template]:
        return JINJA.from_string(self.prompt), JINJA.from_string(self.reply)

    def variables(self) -> set[str]:
        """Names the prompt and the reply read. Raises LiteStageError when a template does not parse."""
        names: set[str] = set()
        for part in ("prompt", "reply"):
            try:
                names |= jinja2.meta.find_undeclared_variables(JINJA.parse(getattr(self, part)))
            except Exception as error:  # Jinja2 has no error of its own for expressions that Python does not take
                wrong = type(error).__name__
                if isinstance(error, jinja2.TemplateSyntaxError):
                    wrong = f"{error.message}, line {error.lineno}"
                message = f"The {part} of stage {self.name!r} is not valid Jinja2 ({wrong}); mend it."
                raise LiteStageError(message) from None
        return names

    def prompts(self, question: Question, outputs: Outputs) -> list[Prompt]:
        """The stage's complete prompts for one question: one, or one per option.

        Raises:
            LiteStageError: a template reads what this question does not have.
        """
        shown = self._shown
        return [
            Prompt.of_turns([*shown, Turn("user", asked)], reply) if shown or self.reply else Prompt(asked)
            for asked, reply in self._asked(question, outputs, question.lettered if self.per_option else (None,))
        ]

    def _asked(
        self, question: Question, outputs: Mapping[str, Any], over: Sequence[Option | None]
    ) -> list[tuple[str, str]]:
        """By option, or once, the prompt and how the reply begins."""
        written = {name: Written(text) if isinstance(text, str) else text for name, text in outputs.items()}
        context = {"question": question.text, "options": question.lettered, **written}
        prompt, reply = self._templates
        try:
            return [(prompt.render(context, option=option), reply.render(context, option=option)) for option in over]
        except Exception as error:  # a template is a program of the user's
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LiteStageError(
                f"The prompt of stage {self.name!r} can't be made for question {question.id!r} ({reason}); mend it."
            ) from None

    @cached_property
    def _shown(self) -> list[Turn]:
        """The worked examples' turns."""
        turns: list[Turn] = []
        for example in self.examples:
            question, text = example.question, example.texts[self.name]
            texts = [text] if isinstance(text, str) else text
            options = (None,) if isinstance(text, str) else question.lettered
            answers = [
                f"{reply} {text}".strip()
                for (_, reply), text in zip(self._asked(question, example.texts, options), texts, strict=True)
            ]
            at = question.labels.index(example.option)
            over, answer = (question.lettered[at], answers[at]) if self.per_option else (None, " ".join(answers))
            turns += [Turn("user", self._asked(question, example.texts, [over])[0][0]), Turn("assistant", answer)]
        return turns

    def limit(self, question: Question) -> int:
        """Most tokens one continuation may have."""
        joint = self.fan_out is not None and self.mode == "joint"
        return self.max_new_tokens * (len(question.options) if joint else 1)


@dataclass(frozen=True)
class Pipeline:
    """Ordered stages and how the answer's letter is found.

    Attributes:
        answer: pattern that finds it in the last stage's text.
        choose: what happens where the pattern finds no option's letter: ``none`` (no answer), or ``likelihood``: the
            letter that the model holds the most probable after that text.
        cue: what is put between that text and the letter.
    """

    name: str
    stages: tuple[Stage, ...]
    answer: str = r"the answer is option ([A-Z])\."
    description: str = field(default="", compare=False)
    choose: str = "none"
    cue: str = "So the answer is option"

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
            for example in stage.examples:
                example.check(stage.name, stage.fan_out is not None)
                known_stages(f"The example {example.question.text!r:.80}", example.texts, self.stage_names)
        one_of(f"choose of pipeline {self.name!r}", self.choose, CHOICES)
        if self.choose != "none" and self.stages[-1].per_option:
            raise LiteStageError(
                f"Pipeline {self.name!r} has choose={self.choose!r}, but its last stage asks of every option apart; "
                "add a stage that asks once, or leave choose out."
            )
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
        """Changes whenever a prompt, limit, stop string, mode, example or the way to the answer does."""
        new = {"reply": "", "examples": ()}  # left out where not used: plans name the hashes of before
        stages = [{k: v for k, v in asdict(stage).items() if k not in new or v != new[k]} for stage in self.stages]
        content: dict[str, Any] = {"answer": self.answer, "stages": stages}
        if self.choose != "none":
            content |= {"choose": self.choose, "cue": self.cue}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def parse_answer(self, outputs: Outputs) -> str | None:
        """The letter, A to Z, that the last stage settled on, or None when it named none.

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
        found = match.group(1) if match else None
        return found if found in [*ascii_uppercase] else None

    def answered_by(self, question: Question, outputs: Outputs) -> list[Prompt]:
        """By option, the last stage's prompt and text, the cue and the option's letter: to be told apart by likelihood.

        Where the prompt ends in the cue and nothing was written, it is not said again.
        """
        (prompt,), text = self.stages[-1].prompts(question, outputs), outputs[self.stages[-1].name]
        if text and isinstance(text, str):
            prompt += f" {as_sentence(text) if self.cue else text}"
        if self.cue and not prompt.endswith(self.cue):
            prompt += f" {self.cue}"
        return [prompt + f" {label}" for label in question.labels]

    def with_limits(self, max_new_tokens: Mapping[str, int]) -> Pipeline:
        """The same pipeline with other limits for the stages named."""
        known_stages("max_new_tokens", max_new_tokens, self.stage_names)
        return replace(
            self,
            stages=tuple(
                replace(stage, max_new_tokens=max_new_tokens.get(stage.name, stage.max_new_tokens))
                for stage in self.stages
            ),
        )

    def with_mode(self, mode: str) -> Pipeline:
        """The same pipeline with every fan-out stage in ``mode``; where there is none, it is said that nothing changes.

        Raises:
            LiteStageError: no such mode.
        """
        one_of("analyze", mode, FAN_OUT_MODES)
        if not any(stage.fan_out for stage in self.stages):
            getLogger(__name__).warning(
                "analyze=%s does nothing: no stage of the pipeline %s fans out over the options", mode, self.name
            )
        return replace(
            self, stages=tuple(replace(stage, mode=mode) if stage.fan_out else stage for stage in self.stages)
        )
