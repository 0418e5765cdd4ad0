"""A closed synthetic world with staged questions about it, so that a small model can be right offline."""

from litestage.menagerie.questions import VARIANTS, load_split
from litestage.menagerie.staged import StagedRow, read_staged, write_staged

__all__ = ["VARIANTS", "StagedRow", "load_split", "read_staged", "write_staged"]
