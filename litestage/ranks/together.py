"""What all ranks do together: share questions out, put results together, and take what rank 0 found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from litestage.errors import LiteStageError
from litestage.ranks.place import here

Value = TypeVar("Value")
Key = TypeVar("Key")

_waiting: list[None] = []


@contextmanager
def in_step() -> Iterator[None]:
    """Marks work that needs all ranks: if rank 0 ends before it is done, the job has failed (see ``watch``)."""
    _waiting.append(None)
    try:
        yield
    except LiteStageError:
        _waiting.pop()
        raise
    _waiting.pop()  # not after other errors: what broke may be a collective, because rank 0 is gone


def is_in_step() -> bool:
    return bool(_waiting)


def from_rank_zero(compute: Callable[[], Value]) -> Value:
    """What ``compute`` returns, or the LiteStageError it raises, on rank 0. The others wait, and do not compute."""
    if here().world_size == 1:
        return compute()
    import torch.distributed as dist

    found: list[Any] = [None, None]
    failure: BaseException | None = None
    if here().rank == 0:
        try:
            found[0] = compute()
        except LiteStageError as error:
            failure, found[1] = error, str(error)
    with in_step():
        dist.broadcast_object_list(found, src=0)
    if found[1] is not None:
        raise failure or LiteStageError(found[1])
    return found[0]  # type: ignore[no-any-return]


def share(items: Sequence[Value], *, rank_zero_only: bool = False) -> list[Value]:
    """This rank's items: every ``world_size``-th, or all on rank 0 and none elsewhere."""
    if rank_zero_only:
        return list(items) if here().rank == 0 else []
    return list(items[here().rank :: here().world_size])


def union(parts: Mapping[Key, Value]) -> dict[Key, Value]:
    """All ranks' entries, on all ranks."""
    if here().world_size == 1:
        return dict(parts)
    import torch.distributed as dist

    everywhere: list[Any] = [None] * here().world_size
    with in_step():
        dist.all_gather_object(everywhere, dict(parts))
    return {key: value for part in everywhere for key, value in part.items()}
