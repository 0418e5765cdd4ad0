"""Many devices: one process on each, in step; what only one of them may do; and what happens when one dies."""

from litestage.ranks.ranks import (
    Ranks,
    cluster,
    from_rank_zero,
    here,
    in_step,
    launch,
    own_device,
    own_folder,
    share,
    union,
)
from litestage.ranks.watch import let_rank_zero_tell

__all__ = [
    "Ranks",
    "cluster",
    "from_rank_zero",
    "here",
    "in_step",
    "launch",
    "let_rank_zero_tell",
    "own_device",
    "own_folder",
    "share",
    "union",
]
