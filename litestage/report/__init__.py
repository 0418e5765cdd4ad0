"""A comparison as one self-contained HTML page."""

from litestage.report.html import write_report

__all__ = ["write_report"]
