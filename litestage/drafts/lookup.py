"""Lookup: what a stage will write next, guessed from its prompt and from what it wrote on calibration questions.

Prompt lookup (``prompt_lookup_num_tokens`` in transformers, ``ngram`` in vLLM) copies what followed the last few tokens
where they stood before. Stages also speak in formulas, so the same is done over the stage's own calibration outputs,
which a plan keeps: there the words that come from the question are one class, so that *a mall is incorrect* foretells
how an analysis of any other option ends. Every guess has a probability, counted on the calibration outputs, and is made
while the whole draft is likely enough to pay for one more token in a step. A wrong guess costs time, never a token: all
are verified.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

BEGIN, COPIED = -1, -2
"""Before an output's first token; in place of a token that is no part of a formula."""
LONGEST = 4
"""Tokens that are matched at most."""
FORMULA = 0.1
"""The share of outputs (or prompts) that a token is in, at least, to belong to the stage's formula."""
UNSEEN = 0.5
"""How likely a guess from the prompt is right where there was no calibration."""

Run = tuple[int, ...]
Found = TypeVar("Found")


class Guess(NamedTuple):
    """A token, and how likely it is to be the next."""

    token: int
    probability: float


class Phrases:
    """What followed every run of up to `LONGEST` tokens in a stage's calibration outputs.

    Args:
        outputs: token ids, their end included.
        prompt_only: tokens that the stage's prompts have again and again and no output has: copying ends there.
        copied: by the number of tokens matched (1 to `LONGEST`), how often a guess from the prompt was right.
    """

    def __init__(self, outputs: Iterable[Run], prompt_only: Iterable[int], copied: Sequence[float]) -> None:
        self.outputs = tuple(output for output in outputs if output)
        self.prompt_only, self.copied = frozenset(prompt_only), tuple(copied)
        found = Counter(token for output in self.outputs for token in set(output))
        self._formula = {BEGIN, *(token for token, count in found.items() if count >= FORMULA * len(self.outputs))}
        texts = [(BEGIN, *output) for output in self.outputs]
        self._words, self._shapes = _counted(texts), _counted(map(self._shape, texts))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Phrases):
            return NotImplemented
        return self.kept == other.kept

    def __hash__(self) -> int:
        return hash(repr(self.kept))

    @property
    def kept(self) -> tuple[tuple[Run, ...], list[int], tuple[float, ...]]:
        """All that they are made of: the arguments, as plain data."""
        return self.outputs, sorted(self.prompt_only), self.copied

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> Phrases:
        """Of a stage's calibration prompts and what it wrote after them."""
        written = {token for output in outputs for token in output}
        found = Counter(token for prompt in prompts for token in set(prompt))
        prompt_only = [t for t, count in found.items() if t not in written and count >= FORMULA * len(prompts)]
        tries, hits = [0] * LONGEST, [0] * LONGEST
        for prompt, output in zip(prompts, outputs, strict=True):
            copying = Copying(prompt)
            for place in range(1, len(output)):
                copying.read(output[place - 1 : place])
                token, matched = copying.next(output[:place])
                if token is not None and token not in prompt_only:
                    tries[matched - 1] += 1
                    hits[matched - 1] += token == output[place]
        copied = [(hit + UNSEEN) / (tried + 1) for hit, tried in zip(hits, tries, strict=True)]
        return cls([tuple(output) for output in outputs], prompt_only, copied)

    def next_word(self, text: Sequence[int]) -> Guess | None:
        """The most frequent token after the last words of ``text``, two at least, the longest known run."""
        return _after(self._words, text, 2)[0]

    def next_of_formula(self, text: Sequence[int]) -> Guess | None:
        """The formula's next token; None where a word of the question is due, or nothing is known."""
        found, _ = _after(self._shapes, self._shape(text), 1)
        return found if found and found.token != COPIED else None

    def _shape(self, text: Sequence[int]) -> Run:
        return tuple(token if token in self._formula else COPIED for token in text)


class Copying:
    """What followed every run of up to `LONGEST` tokens in one row's prompt and text, the last time."""

    def __init__(self, prompt: Sequence[int]) -> None:
        self._last: Run = ()
        self._followed: dict[Run, int] = {}
        self.read(prompt)

    def read(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            for run in _runs(self._last):
                self._followed[run] = token
            self._last = (*self._last, token)[-LONGEST:]

    def next(self, text: Sequence[int]) -> tuple[int | None, int]:
        """The token that followed the last of ``text``, or None, and how many tokens were matched."""
        return _after(self._followed, text, 1)


class Lookup:
    """Guesses for one row.

    Args:
        prompt: token ids, or None not to look there.
        phrases: those of the stage, or None to look in the prompt alone.
        least: the probability of a whole draft below which it ends: what one more token costs in a step, as a share of
            the step that it may save.
    """

    def __init__(self, prompt: Sequence[int] | None, phrases: Phrases | None, least: float) -> None:
        self._copying = None if prompt is None else Copying(prompt)
        self._phrases, self._least = phrases, least
        self._seen = 0

    def guess(self, written: Sequence[int], length: int) -> list[int]:
        """Up to ``length`` tokens to follow those that the row has written."""
        if self._copying is not None:
            self._copying.read(written[self._seen :])
            self._seen = len(written)
        text, guessed, likely = [BEGIN, *written][-LONGEST:], list[int](), 1.0
        while len(guessed) < length and (guess := self._next(text)) is not None:
            likely *= guess.probability
            if likely < self._least:
                break
            guessed.append(guess.token)
            text = [*text, guess.token][-LONGEST:]
        return guessed

    def _next(self, text: Sequence[int]) -> Guess | None:
        """The likeliest of what the stage's words, the prompt and the stage's formula say."""
        token, matched = (None, 0) if self._copying is None else self._copying.next(text)
        phrases = self._phrases
        if phrases is None:
            return None if token is None else Guess(token, UNSEEN)
        guesses = [phrases.next_word(text), phrases.next_of_formula(text)]
        if token is not None and token not in phrases.prompt_only:
            guesses.insert(0, Guess(token, phrases.copied[matched - 1]))
        return max(filter(None, guesses), key=lambda guess: guess.probability, default=None)


def _counted(texts: Iterable[Run]) -> dict[Run, Guess]:
    """By run, the most frequent token after it with its share; half a count stands for what was never seen."""
    followed: Mapping[Run, Counter[int]] = defaultdict(Counter)
    for text in texts:
        for end in range(1, len(text)):
            for run in _runs(text[:end]):
                followed[run][text[end]] += 1
    found = {}
    for run, counts in followed.items():
        token, count = counts.most_common(1)[0]
        found[run] = Guess(token, count / (counts.total() + 0.5))
    return found


def _runs(text: Sequence[int]) -> Iterator[Run]:
    """The last 1, 2, ... `LONGEST` tokens."""
    for count in range(1, min(LONGEST, len(text)) + 1):
        yield tuple(text[-count:])


def _after(followed: Mapping[Run, Found], text: Sequence[int], shortest: int) -> tuple[Found | None, int]:
    """What followed the longest known run at the end of ``text``, of at least ``shortest`` tokens, and its length."""
    for count in range(min(LONGEST, len(text)), shortest - 1, -1):
        if (found := followed.get(tuple(text[-count:]))) is not None:
            return found, count
    return None, 0
