"""`python -m scae.report DIR`: rebuild and print the report of a run or of a sweep from its files."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from scae.report.arms_grid import compares_arms
from scae.report.files import ReportError, is_run, is_sweep, read_job, read_metrics
from scae.report.remarks import remarks
from scae.report.run import tables, write_pages, write_run
from scae.report.sweep import sweep_remarks, sweep_table, write_sweep
from scae.report.terminal import print_remarks, terminal


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 2 with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m scae.report", description=__doc__)
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="a run directory, or a sweep's with one of them a job"
    )
    directory: Path = parser.parse_args(arguments).directory
    try:
        report(directory)
    except (ReportError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"error: {error}", markup=False, highlight=False)
        return 2
    return 0


def report(directory: Path) -> None:
    """Rebuild, print the tables, and say where the files lie."""
    console = terminal()
    if is_run(directory) and not compares_arms(read_metrics(directory)) and read_job(directory).stages.get("analyze"):
        written = write_pages(directory)
    elif is_run(directory):
        page = write_run(directory)
        metrics = read_metrics(directory)
        console.print(*tables(metrics))
        print_remarks(console, remarks(metrics))
        names = ("report.html", "features.html", "fvu.png", "curves.png", "metrics.json")
        written = [page, *(directory / name for name in names)]
    elif is_sweep(directory):
        page = write_sweep(directory)
        for table in sweep_table(directory):
            console.print(table)
        print_remarks(console, sweep_remarks(directory))
        written = [page, *(directory / name for name in ("report.html", "sweep.png", "sweep.json"))]
    else:
        raise ReportError(_what_is_missing(directory))
    for path in written:
        if path.is_file():
            console.print(str(path), soft_wrap=True, highlight=False, markup=False)


def _what_is_missing(directory: Path) -> str:
    if not directory.is_dir():
        return f"'{directory}' is not a directory; give the directory of a run or of a sweep"
    found = [path for depth in ("*/*", "*/*/*") for path in directory.glob(f"{depth}/metrics.json")]
    hint = ""
    if found:
        hint = f"; did you mean '{max(found, key=lambda path: path.stat().st_mtime).parent}'?"
    return f"'{directory}' holds neither metrics.json nor directories of jobs{hint}"


if __name__ == "__main__":
    sys.exit(main())
