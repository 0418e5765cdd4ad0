"""What a decoder has been made to do: a measure of cost that does not depend on the clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Work:
    """Counts since the decoder was made.

    Attributes:
        tokens: forwarded through all sub-layers, padding included; a pass over some of the sub-layers counts in part.
        passes: forward passes after each other.
        steps: those of them that decoded one token per row.
    """

    tokens: float = 0.0
    passes: float = 0.0
    steps: int = 0

    def forwarded(self, tokens: int, share: float = 1.0) -> None:
        """A pass of ``tokens`` tokens through that share of the sub-layers."""
        self.tokens += tokens * share
        self.passes += share

    def add(self, other: Work) -> None:
        """What was done elsewhere for this decoder."""
        self.tokens += other.tokens
        self.passes += other.passes
        self.steps += other.steps

    def since(self, before: Work) -> Work:
        return Work(self.tokens - before.tokens, self.passes - before.passes, self.steps - before.steps)
