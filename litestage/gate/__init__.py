"""The gate: holds a repository's results to a committed baseline."""

from litestage.gate.figures import GateOptions
from litestage.gate.record import Record, read_record, write_baseline
from litestage.gate.verdict import Verdict, judge

__all__ = ["GateOptions", "Record", "Verdict", "judge", "read_record", "write_baseline"]
