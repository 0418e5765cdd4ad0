"""What runs found, as a page to look at: HTML, Markdown and the figures behind them."""

from litestage.report.page import pictures, write_report
from litestage.report.runs import Run, read_run, read_runs

__all__ = ["Run", "pictures", "read_run", "read_runs", "write_report"]
