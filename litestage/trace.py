"""Traces: what happened to a question. Everything that is reported is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class StageTrace:
    """One stage of one question; a stage that fanned out has one row per option.

    Attributes:
        prompt_tokens: prompt length per row.
        shared_tokens: how much of each prompt is common to all rows, and was run once.
        one_by_one: whether the rows ran one after another instead of together.
        tokens: new tokens per row, the ending EOS included.
        texts: generated text per row.
        stops: why each row ended: eos, exit, stop_string, length or too_long.
        prefill_s, decode_s: seconds, or None where the question did not run alone. The last stage's prefill counts the
            pass that chooses an option by likelihood.
        confidences: per row, each step's largest softmax probability, when they were asked for.
    """

    name: str
    prompt_tokens: tuple[int, ...]
    shared_tokens: int
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    stops: tuple[str, ...]
    prefill_s: float | None = None
    decode_s: float | None = None
    confidences: tuple[tuple[float, ...], ...] | None = None
    one_by_one: bool = False


@dataclass(frozen=True)
class Trace:
    """One question under one plan.

    Attributes:
        question_id: the question's id.
        plan: the plan's hash.
        answer: the letter read from the last stage, None when there was none.
        correct: whether it is the right one, None when the right one is not known.
        chosen_by_likelihood: whether the letter was not read, but is the one that the model held the most probable.
    """

    question_id: str
    plan: str
    stages: tuple[StageTrace, ...]
    answer: str | None
    correct: bool | None
    chosen_by_likelihood: bool = False

    @property
    def parse_failure(self) -> bool:
        """No answer could be read; counts as wrong."""
        return self.answer is None

    @property
    def too_long(self) -> bool:
        """A prompt did not fit the model's context; counts as wrong."""
        return any("too_long" in stage.stops for stage in self.stages)

    @property
    def tokens(self) -> int:
        return sum(sum(stage.tokens) for stage in self.stages)

    @property
    def latency_s(self) -> float | None:
        """Seconds from question to answer, None where the question did not run alone."""
        if any(stage.prefill_s is None or stage.decode_s is None for stage in self.stages):
            return None
        return sum((stage.prefill_s or 0.0) + (stage.decode_s or 0.0) for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Trace:
        def tuples(value: Any) -> Any:
            return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value

        stages = tuple(StageTrace(**{key: tuples(value) for key, value in stage.items()}) for stage in raw["stages"])
        return cls(**{**raw, "stages": stages})
