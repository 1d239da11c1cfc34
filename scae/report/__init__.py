"""Pages, tables and plots of finished runs and sweeps, made from their files alone (JSON in, Markdown and PNG out).

Nothing here loads a model or imports torch, so a report is rebuilt anywhere in a second: `python -m scae.report DIR`.
"""

from scae.report.files import ReportError, is_run, is_sweep
from scae.report.remarks import remarks
from scae.report.run import tables, write_pages, write_run
from scae.report.sweep import sweep_remarks, sweep_table, write_sweep
from scae.report.terminal import print_remarks, terminal

__all__ = [
    "ReportError",
    "is_run",
    "is_sweep",
    "print_remarks",
    "remarks",
    "sweep_remarks",
    "sweep_table",
    "tables",
    "terminal",
    "write_pages",
    "write_run",
    "write_sweep",
]
