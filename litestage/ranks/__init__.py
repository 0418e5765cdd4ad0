"""Many devices: one process (rank) on each, all running the same command in step.

What a command decides must be the same on every rank, or they would wait for each other for ever. So whatever is
measured on one machine or read from a file that others write is computed by rank 0 and sent to all
(:func:`from_rank_zero`); questions are shared out (:func:`share`) and their traces put together again
(:func:`union`). Only rank 0 is heard: elsewhere standard output and the folder of the results lead nowhere.

Between ranks travel Python objects only, over gloo: a waiting NCCL kernel would keep its GPU busy. When a rank dies,
:mod:`litestage.ranks.watch` ends the others.
"""

from litestage.ranks.place import Ranks, here, own_device, own_folder
from litestage.ranks.start import cluster, launch
from litestage.ranks.together import from_rank_zero, in_step, share, union
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
