"""Traces: what happened to a question. Everything that is reported is computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


def time_per_token(whole_s: float | None, ttft_s: float | None, tokens: int) -> float | None:
    """TPOT: ``(whole_s - ttft_s) / (tokens - 1)`` seconds, as vLLM's bench has it; None if not measured, or where no
    token follows the first."""
    return None if whole_s is None or ttft_s is None or tokens < 2 else (whole_s - ttft_s) / (tokens - 1)


@dataclass(frozen=True)
class StageTrace:
    """One stage of one question; a stage that fanned out has one row per option.

    Attributes:
        prompt_tokens: prompt length per row.
        shared_tokens: how much of each prompt is common to all rows, and was run once.
        one_by_one: whether the rows ran one after another instead of together.
        tokens: number of new tokens per row, the ending EOS included.
        texts: generated text per row.
        stops: why each row ended: eos, exit, stop_string, length, too_long or non_finite.
        prefill_s: seconds from the stage's beginning until its rows have their first tokens: prompts rendered and
            tokenised, set-up and prefill. Of rows that run one after another, the sum.
        decode_s: all other seconds of the stage.
        ttft_s: time to first token: seconds from the stage's beginning until its first row has a token. Rows that run
            together have theirs together, and it is ``prefill_s``.
            All three are None where they were not measured: the question did not run alone, or nothing was generated.
        confidences: per row, each step's largest softmax probability, when they were asked for.
        token_ids: the new tokens of each row, of which ``texts`` are the text.
        guessed, accepted: tokens that a draft guessed for all rows, and those of them that were right.
        signals: per row, what else the exit rule asked of every step, by name.
        reused_tokens: per row, how much of the prompt was not prefilled, as the stage before had left
            its keys and values. Only by the clock, under a plan with ``prefix_cache``.
    """

    name: str
    prompt_tokens: tuple[int, ...]
    shared_tokens: int
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    stops: tuple[str, ...]
    prefill_s: float | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    confidences: tuple[tuple[float, ...], ...] | None = None
    one_by_one: bool = False
    token_ids: tuple[tuple[int, ...], ...] = ()
    guessed: int = 0
    accepted: int = 0
    signals: tuple[Mapping[str, Sequence[float]], ...] = ()
    reused_tokens: tuple[int, ...] = ()

    @property
    def successive_tokens(self) -> int:
        """Tokens that follow one another: of rows that run together, which take each step together, the longest's."""
        return sum(self.tokens) if self.one_by_one else max(self.tokens, default=0)

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: ``(prefill_s + decode_s - ttft_s) / (successive_tokens - 1)`` seconds."""
        if self.prefill_s is None or self.decode_s is None:
            return None
        return time_per_token(self.prefill_s + self.decode_s, self.ttft_s, self.successive_tokens)


@dataclass(frozen=True)
class Trace:
    """One question under one plan.

    Attributes:
        question_id: the question's id.
        plan: the plan's hash.
        answer: the letter read from the last stage, None when there was none.
        correct: whether it is the right one, None when the right one is not known.
        latency_s: wall time from the question's text to the answer, in seconds: every stage's prompts rendered and
            tokenised, set-up, prefill, decoding and the answer read. None where the question did not run alone.
        chosen_by_likelihood: whether the letter was not read, but is the one that the model held the most probable.
    """

    question_id: str
    plan: str
    stages: tuple[StageTrace, ...]
    answer: str | None
    correct: bool | None
    latency_s: float | None = None
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
    def non_finite(self) -> bool:
        """A stage met logits that are no numbers, and the question ended there; counts as wrong."""
        return any("non_finite" in stage.stops for stage in self.stages)

    @property
    def tokens(self) -> int:
        return sum(sum(stage.tokens) for stage in self.stages)

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: seconds from the question until the first stage has one; None if not measured."""
        return self.stages[0].ttft_s if self.stages else None

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: ``(latency_s - ttft_s) / (tokens - 1)`` seconds, over all stages' successive tokens.

        Prefills of later stages are in it: a question is one text to who waits for its answer.
        """
        return time_per_token(self.latency_s, self.ttft_s, sum(stage.successive_tokens for stage in self.stages))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Trace:
        def tuples(value: Any) -> Any:
            return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value

        stages = tuple(StageTrace(**{key: tuples(value) for key, value in stage.items()}) for stage in raw["stages"])
        return cls(**{**raw, "stages": stages})
