"""A closed synthetic world with staged questions about it, so that a small model can be right offline."""

from litestage.menagerie.questions import VARIANTS, fresh, load_split

__all__ = ["VARIANTS", "fresh", "load_split"]
