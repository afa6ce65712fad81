"""What an evaluation leaves behind: ``metrics.json``, ``per_case.csv``, ``report.md`` and ``montage.png``."""

from ctpa_vqgan.report.beside import save_beside
from ctpa_vqgan.report.montage import save_montage
from ctpa_vqgan.report.page import format_summary, write_report
from ctpa_vqgan.report.results import write_metrics

__all__ = ["format_summary", "save_beside", "save_montage", "write_metrics", "write_report"]
