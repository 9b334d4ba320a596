"""report.html: one self-contained file that shows what a run did."""

from omnivision.report.report import ReportData, build_report, read_metrics

__all__ = ["ReportData", "build_report", "read_metrics"]
