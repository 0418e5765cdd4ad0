"""How fast this machine is and could be: the engine beside ``transformers`` generate and the machine's own ceiling."""

from litestage.bench.run import bench

__all__ = ["bench"]
