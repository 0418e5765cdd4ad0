"""Runs questions through stages under plans, on Lightning's ``Trainer.predict``; traces are written batch by batch."""

from litestage.runner.contestant import Contestant
from litestage.runner.run import run

__all__ = ["Contestant", "run"]
