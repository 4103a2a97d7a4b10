"""Reports: a study as one HTML file that opens offline."""

from mechshift_tl.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
