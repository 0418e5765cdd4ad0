"""What runs found, as a page to look at: HTML, Markdown and the figures behind them."""

from litestage.report.page import pictures, write_report
from litestage.report.runs import Run, read_run

__all__ = ["Run", "pictures", "read_run", "write_report"]
