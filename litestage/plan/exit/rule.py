"""What an exit rule is, and what it sees of a generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol

from litestage.errors import LiteStageError, all_known, one_of

TRIAL = "sure after "
"""What the name of a signal begins with that is measured on trial: the likeliest token's probability after the end of a
sentence and the words that the name goes on with, which are then forgotten; 0 at all other steps."""


class Seen(Protocol):
    """A generation as far as it has come, its newest token last."""

    @property
    def tokens(self) -> Sequence[int]: ...

    @property
    def confidences(self) -> Sequence[float]:
        """The largest softmax probability of every step."""
        ...

    @property
    def signals(self) -> Mapping[str, Sequence[float]]:
        """What else a rule asked for, by its name: a number for every step (:mod:`litestage.engine.signals`)."""
        ...

    def text(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...


@dataclass(frozen=True)
class Steps:
    """A generation that is written down."""

    tokens: Sequence[int] = ()
    confidences: Sequence[float] = ()
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    text: Callable[[Sequence[int]], str] = lambda tokens: ""


class ExitRule:
    """When a stage's generation is cut short; ``ExitRule(rule, ...)`` makes the one of that name in ``EXIT_RULES``.

    A rule is a frozen dataclass whose first field, ``rule``, is its name and whose others are its parameters. It looks
    at what was written so far and at nothing else, so it only shortens a fixed sequence: an uncut generation with what
    the rule looks at gives the result for all its parameters. The token at which it ends is replaced by the end of
    sequence.

    Raises:
        LiteStageError: no such rule, a parameter that it does not have, or a value that makes no sense.
    """

    rule: str
    signals: ClassVar[tuple[str, ...]] = ()
    """What it looks at besides tokens and confidences."""

    def __new__(cls, rule: str = "confidence", *values: Any, **parameters: Any) -> ExitRule:
        from litestage.plan.exit import EXIT_RULES

        if cls is not ExitRule:
            return super().__new__(cls)
        one_of("exit rule", rule, EXIT_RULES)
        made = EXIT_RULES[rule]
        known = [parameter.name for parameter in fields(made)]  # type: ignore[arg-type]
        all_known(f"exit rule {rule!r} has no", parameters, known)
        return super().__new__(made)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, from which ``ExitRule(**data)`` makes the same rule."""
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def grid(cls) -> list[ExitRule]:
        """Parameters that a search tries, the most cautious of a kind first."""
        return [cls()]

    def of(self, stage: str) -> ExitRule | None:
        """The rule of one stage: this one in all of them."""
        return self

    def stops(self, seen: Seen) -> bool:
        """Whether the generation ends at its newest token."""
        raise NotImplementedError

    @property
    def on_trial(self) -> str:
        """The words that are run on trial at the end of every sentence, or none."""
        return next((name.removeprefix(TRIAL) for name in self.signals if name.startswith(TRIAL)), "")

    @property
    def uncut(self) -> ExitRule | None:
        """What stands in its place where the whole text is wanted, and what it looks at."""
        return Uncut(signals=self.signals) if self.signals else None

    def calibrated(self, written: Sequence[Seen]) -> ExitRule:
        """The rule with what it takes from a stage's uncut generations; itself where it takes nothing."""
        return self

    @property
    def lacks(self) -> str:
        """What has to be calibrated before it can be used; empty where nothing has."""
        return ""

    def __str__(self) -> str:
        return self.rule


@dataclass(frozen=True)
class Uncut(ExitRule):
    """Ends nothing; what is asked for is measured."""

    rule: str = "uncut"
    signals: tuple[str, ...] = ()  # type: ignore[misc]

    def stops(self, seen: Seen) -> bool:
        return False


def exit_step(rule: ExitRule, steps: Steps) -> int | None:
    """Index of the first step at which ``rule`` ends a generation, or None."""
    tokens: list[int] = []
    confidences: list[float] = []
    signals: dict[str, list[float]] = {name: [] for name in steps.signals}
    seen = Steps(tokens, confidences, signals, steps.text)
    for at in range(max(len(steps.tokens), len(steps.confidences))):
        tokens.extend(steps.tokens[at : at + 1])
        confidences.extend(steps.confidences[at : at + 1])
        for name, values in signals.items():
            values.append(steps.signals[name][at])
        if rule.stops(seen):
            return at
    return None


def check_number(name: str, value: Any, low: float, high: float, what: str) -> None:
    """Raises LiteStageError, ending in ``what`` to give, unless ``value`` is a number within these limits."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or value == float("inf"):  # which no JSON holds
        limits = f"outside {low:g} to {high:g}" if high < float("inf") else f"no number from {low:g} up"
        raise LiteStageError(f"exit {name} {value!r} is {limits}; give {what}.")


def check_words(words: Any) -> None:
    """Raises LiteStageError unless an answer may follow ``words``."""
    if not isinstance(words, str) or not words.strip():
        raise LiteStageError(f"exit words {words!r:.80} are no words; give those that an answer follows.")


def check_count(name: str, value: Any, what: str) -> None:
    """Raises LiteStageError unless ``value`` is a whole number of ``what``, at least 1."""
    if type(value) is not int or value < 1:
        raise LiteStageError(f"exit {name} {value!r} is not a number of {what}; give a whole number, at least 1.")
