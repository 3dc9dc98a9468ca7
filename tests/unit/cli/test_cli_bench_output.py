"""What `tandem bench serve` and `compare` print."""

from __future__ import annotations

import io

from load_reports import report, row
from rich.console import Console

from tandem.bench.report.load_page import load_page
from tandem.bench.report.load_report import LoadReport
from tandem.cli.bench_output import print_report


def printed(made: LoadReport) -> str:
    file = io.StringIO()
    print_report(made, Console(file=file, highlight=False, width=80))
    return file.getvalue()


def test_tokens_that_nobody_counted_are_told() -> None:
    made = report([row(0.0, counted=False), row(1.0, counted=True), row(2.0)])
    words = "the server did not count the tokens of 1 answers"
    assert words in " ".join(printed(made).split())
    assert words in load_page(made)
    assert "did not count" not in printed(report([row(0.0, counted=True)]))
