"""Token-id bookkeeping before a prefill: common prefixes and padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

import torch
from torch import Tensor


def common_prefix(prompts: Sequence[Sequence[int]], groups: Sequence[int]) -> tuple[list[Sequence[int]], list[int]]:
    """Longest common prefix of each group's complete prompts.

    At least one token of every prompt stays outside its prefix, so that each row has a last token of its own to
    predict from.

    Returns:
        The prefixes and, for every prompt, the index of its own; no prefixes at all if a group has nothing in common.
    """
    order = list(dict.fromkeys(groups))
    members = {group: [p for p, g in zip(prompts, groups, strict=True) if g == group] for group in order}
    prefixes = []
    for group in order:
        rows = members[group]
        room = min(map(len, rows)) - 1
        same = takewhile(lambda column: len(set(column)) == 1, zip(*(row[:room] for row in rows), strict=True))
        prefixes.append(rows[0][: sum(1 for _ in same)])
    if not all(prefixes):
        return [], []
    return prefixes, [order.index(group) for group in groups]


def padded(rows: Sequence[Sequence[int]], starts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, positions and validity, each [rows, longest].

    Padding repeats the row's last token and position: it attends to something, so no row of the attention is empty,
    and being invalid it is never attended.
    """
    longest = max(map(len, rows))
    ids = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
    positions = [
        [start + min(offset, len(row) - 1) for offset in range(longest)]
        for row, start in zip(rows, starts, strict=True)
    ]
    valid = [[offset < len(row) for offset in range(longest)] for row in rows]
    return (
        torch.tensor(ids, device=device),
        torch.tensor(positions, device=device),
        torch.tensor(valid, device=device),
    )
