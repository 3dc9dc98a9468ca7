"""Summaries as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tandem.bench.summary import Summary

COLUMNS = {
    "tok/s": "output_tokens_per_s",
    "req/s": "requests_per_s",
    "TTFT p50": "ttft_p50_ms",
    "p99": "ttft_p99_ms",
    "TPOT p50": "tpot_p50_ms",
    "ITL p50": "itl_p50_ms",
    "p99 ": "itl_p99_ms",
    "p99.9": "itl_p999_ms",
    "max": "itl_max_ms",
    "intervals": "num_intervals",
    "stalls": "num_stalls",
    "long TTFT": "long_ttft_p50_ms",
    "load's cores": "load_cores",
    "problems": "num_problems",
}


def summary_table(summaries: Sequence[Summary]) -> Table:
    """A row for each run; times in ms."""
    table = Table(title="times in ms")
    table.add_column("server", no_wrap=True)
    table.add_column("load")
    for heading in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for each in summaries:
        figures = each.figures()
        table.add_row(each.arm, each.workload, *(_text(figures[key]) for key in COLUMNS.values()))
    return table


def _text(figure: float | int | None) -> str:
    return "" if figure is None else f"{figure:,}"
