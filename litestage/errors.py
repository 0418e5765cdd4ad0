"""The one exception for a user's mistake, and how a near miss is suggested."""

from collections.abc import Iterable
from difflib import get_close_matches


class LiteStageError(ValueError):
    """Bad input. The message is one clear sentence: what is wrong, with which value, and what to do.

    The command line prints it without a traceback and exits with code 2. What cannot be printed, of a value that it
    names, is written as Python writes it: a line's end does not end the sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(one if one.isprintable() else repr(one)[1:-1] for one in message))


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """``"did you mean 'obqa'?"`` when a known name is close to ``value``, else the list of known names."""
    names = [str(name) for name in known]
    close = get_close_matches(value, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(names)) or 'none'}."


def one_of(what: str, value: object, known: Iterable[str]) -> None:
    """Raises LiteStageError unless a value is one of those known."""
    known = tuple(known)
    if value not in known:
        raise LiteStageError(f"{what} is {value!r}; {did_you_mean(str(value), known)}")


def known_keys(where: str, keys: Iterable[object], known: Iterable[str]) -> None:
    """Raises LiteStageError for the first key that is not known."""
    known = tuple(known)
    for key in keys:
        if key not in known:
            raise LiteStageError(f"{where} has the unknown key {key!r}; {did_you_mean(str(key), known)}")


def known_stages(where: str, stages: Iterable[str], known: Iterable[str]) -> None:
    """Raises LiteStageError for the first stage that is not known."""
    known = tuple(known)
    for stage in stages:
        if stage not in known:
            raise LiteStageError(f"{where} names the stage {stage!r}; {did_you_mean(stage, known)}")


def not_written(error: OSError) -> str:
    """A full disk, or a folder without rights, as one sentence; ``litestage:`` and exit code 2 are the caller's."""
    place = f"{error.filename!r}: " if error.filename else ""
    return (
        f"{place}{error.strerror or error}; see to that place, its disk and its rights. "
        "What was finished is kept, the same command goes on from there."
    )
