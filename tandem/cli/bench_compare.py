"""`tandem bench compare`: two reports of the same load."""

from __future__ import annotations

from pathlib import Path

from tandem.bench.report.compare_page import compare_page
from tandem.bench.report.comparison import compare
from tandem.bench.report.load_report import read_report
from tandem.cli.bench_output import print_comparison
from tandem.cli.files import write_file
from tandem.cli.tables import table_console


def run_compare(first: Path, second: Path, html: Path | None, *, anyway: bool) -> None:
    """Print ratios of the second by the first, and write them to a page. Raises `ConfigError`."""
    comparison = compare(read_report(first), read_report(second), anyway=anyway)
    names = _names(first, second)
    try:
        if html:
            write_file(html, compare_page(comparison, names).encode())
    finally:
        print_comparison(comparison, names, table_console())


def _names(first: Path, second: Path) -> tuple[str, str]:
    """The files' own, or with their folders if those are the same."""
    if first.stem != second.stem:
        return first.stem, second.stem
    return str(first), str(second)
