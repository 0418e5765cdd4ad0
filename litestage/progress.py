"""Progress bars with an ETA, on standard error so that standard output stays a table and one JSON line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from litestage.ranks import here

console = Console(stderr=True)

Advance = Callable[[int], None]
Item = TypeVar("Item")

_shown: Progress | None = None


@contextmanager
def bar(label: str, total: int | None, *, guessed: bool = False) -> Iterator[Advance]:
    """A bar that the yielded function moves on by a number of steps; ``total`` is None where it is not known.

    A bar inside another stands below it, and goes when it is done.

    Args:
        guessed: the total may turn out larger or smaller.
    """
    global _shown
    outer = _shown
    if outer is not None:
        task = outer.add_task(label, total=total)
        try:
            yield _mover(outer, task, guessed)
        finally:
            outer.remove_task(task)
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # a name may hold [brackets]
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=here().rank > 0, refresh_per_second=4) as progress:
        _shown, task = progress, progress.add_task(label, total=total)
        try:
            yield _mover(progress, task, guessed)
        finally:
            if guessed:
                progress.update(task, total=progress.tasks[task].completed)
            _shown = None


def each(label: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, under a bar that counts those that are done."""
    known = list(items)
    with bar(label, len(known)) as advance:
        for item in known:
            yield item
            advance(1)


def _mover(progress: Progress, task: TaskID, guessed: bool) -> Advance:
    def advance(steps: int) -> None:
        progress.update(task, advance=steps)
        at = next(one for one in progress.tasks if one.id == task)
        if guessed and at.total is not None and at.completed >= at.total:
            progress.update(task, total=at.completed + 1)

    return advance
