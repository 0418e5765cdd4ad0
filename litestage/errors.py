"""The one exception for a user's mistake, and how a near miss is suggested."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class LiteStageError(ValueError):
    """Bad input. The message is one clear sentence: what is wrong, with which value, and what to do.

    The command line prints it without a traceback and exits with code 2. What cannot be printed, of a value that it
    names, is written as Python writes it: a line's end does not end the sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(one if one.isprintable() else repr(one)[1:-1] for one in message))


def did_you_mean(value: str, known: Iterable[object]) -> str:
    """``"did you mean 'obqa'?"`` when a known name is close to ``value``, else the list of known names."""
    names = [str(name) for name in known]
    close = get_close_matches(value, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names)) or 'none'}."


def all_known(said: str, values: Iterable[object], known: Iterable[object]) -> None:
    """Raises LiteStageError for the first of the values that is not one of those known; the sentence begins as said."""
    known = tuple(known)
    for value in values:
        if value not in known:
            raise LiteStageError(f"{said} {value!r}; {did_you_mean(str(value), known)}")


def one_of(what: str, value: object, known: Iterable[str]) -> None:
    """Raises LiteStageError unless a value is one of those known."""
    all_known(f"{what} is", [value], known)


def known_keys(where: str, raw: object, known: Iterable[str]) -> None:
    """Raises LiteStageError for what is no mapping, or for its first key that is not known."""
    known = tuple(known)
    if not isinstance(raw, Mapping):
        raise LiteStageError(f"{where} is {raw!r:.80}; it holds {', '.join(known[:-1])} and {known[-1]}.")
    all_known(f"{where} has the unknown key", raw, known)


def known_stages(where: str, stages: Iterable[str], known: Iterable[str]) -> None:
    """Raises LiteStageError for the first stage that is not known."""
    all_known(f"{where} names the stage", stages, known)


def at_least(least: int, **numbers: int | None) -> None:
    """Raises LiteStageError for the first number that is given and below ``least``."""
    for name, number in numbers.items():
        if number is not None and number < least:
            raise LiteStageError(f"{name} is {number}; give at least {least}.")


def not_written(error: OSError) -> str:
    """A full disk, or a folder without rights, as one sentence; ``litestage:`` and exit code 2 are the caller's."""
    place = f"{error.filename!r}: " if error.filename else ""
    return (
        f"{place}{error.strerror or error}; see to that place, its disk and its rights. "
        "What was finished is kept, the same command goes on from there."
    )
