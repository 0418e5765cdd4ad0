"""The text ends once it goes round in circles: it says the same few tokens again. Pruned models are prone to that."""

from __future__ import annotations

from dataclasses import dataclass

from litestage.plan.exit.rule import ExitRule, Seen, check_count


@dataclass(frozen=True)
class Repetition(ExitRule):
    """The last ``length`` tokens stand in the text for the ``times``-th time, one after another without overlap."""

    rule: str = "repetition"
    length: int = 4
    times: int = 3

    def __post_init__(self) -> None:
        check_count("length", self.length, "tokens")
        check_count("times", self.times, "times")

    @classmethod
    def grid(cls) -> list[ExitRule]:
        return [cls(length=length, times=times) for times in (3, 2) for length in (8, 4, 2)]

    def stops(self, seen: Seen) -> bool:
        tokens, length = list(seen.tokens), self.length
        if len(tokens) < length * self.times:
            return False
        wanted, found, end = tokens[-length:], 0, len(tokens)
        while end >= length:
            again = tokens[end - length : end] == wanted
            found += again
            end -= length if again else 1
        return found >= self.times

    def __str__(self) -> str:
        return f"{self.length} tokens said {self.times} times"
