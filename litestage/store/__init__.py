"""What was generated once is found again: by later candidates, other methods, other runs, and after a crash."""

from litestage.store.kept import KeptMeasurements
from litestage.store.reuse import ReusingEngine
from litestage.store.store import ResultStore, default_store_path
from litestage.store.upkeep import prune, store_stats

__all__ = ["KeptMeasurements", "ResultStore", "ReusingEngine", "default_store_path", "prune", "store_stats"]
