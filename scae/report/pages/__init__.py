"""Pages to look at, opened from disk: `report.html` (a run or a sweep as a whole) and `features.html` (its features).

Static files: no server, no network. Python writes data, `assets/` holds what draws it; both land beside the pages in
`pages/`. Nothing here imports torch.
"""

from scae.report.pages.circuit_page import write_circuit_page, write_circuit_pages
from scae.report.pages.folder import ASSETS, copy_assets, page
from scae.report.pages.scripts import packed, script
from scae.report.pages.write import write_run_pages, write_sweep_pages

__all__ = [
    "ASSETS",
    "copy_assets",
    "packed",
    "page",
    "script",
    "write_circuit_page",
    "write_circuit_pages",
    "write_run_pages",
    "write_sweep_pages",
]
