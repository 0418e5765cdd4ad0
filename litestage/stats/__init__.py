"""Paired statistics: every comparison is question by question against full depth."""

from litestage.stats.paired import accuracy_drop_interval, speedup_interval

__all__ = ["accuracy_drop_interval", "speedup_interval"]
