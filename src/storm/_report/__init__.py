"""Reports: what is known of a section, or of many, as HTML files that need nothing else."""

from storm._report._index import write_report_index
from storm._report._write_report import write_report
from storm._report.card import ReportCard

__all__ = ["ReportCard", "write_report", "write_report_index"]
