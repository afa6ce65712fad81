"""What an evaluation leaves behind: pages for people, tables for machines, and pictures."""

from ctpa_vqgan.report.beside import save_beside
from ctpa_vqgan.report.codes_figure import save_codes_figure
from ctpa_vqgan.report.html import write_html_report
from ctpa_vqgan.report.montage import save_montage
from ctpa_vqgan.report.page import format_summary, write_report
from ctpa_vqgan.report.phantom_figure import save_phantom_figure
from ctpa_vqgan.report.rate_figure import save_rate_figure
from ctpa_vqgan.report.results import write_metrics
from ctpa_vqgan.report.slices_figure import save_slices_figure
from ctpa_vqgan.report.tissue_figure import save_tissue_figure

__all__ = [
    "format_summary",
    "save_beside",
    "save_codes_figure",
    "save_montage",
    "save_phantom_figure",
    "save_rate_figure",
    "save_slices_figure",
    "save_tissue_figure",
    "write_html_report",
    "write_metrics",
    "write_report",
]
