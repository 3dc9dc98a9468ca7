"""What `tandem bench serve` and `compare` print."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tandem.bench.completion_stream import hinted
from tandem.bench.report.compare_page import compared_texts
from tandem.bench.report.comparison import Comparison
from tandem.bench.report.load_page import STAT_NAMES
from tandem.bench.report.load_report import LoadReport
from tandem.bench.report.stats import Stats
from tandem.bench.report.wording import (
    count_text,
    load_text,
    more_problems_text,
    ms_text,
    prompt_text,
    share_text,
    stopped_text,
    uncounted_text,
)

MAX_PROBLEMS = 5


def print_report(report: LoadReport, console: Console) -> None:
    """The figures in short."""
    figures = report.figures
    say(console, f"{report.target.model} at {report.target.url}", "bold")
    say(console, load_text(report.load), "dim")
    if stopped := stopped_text(report):
        say(console, f"{stopped} (the figures are of what had come by then)", "bold red")
    served = figures.num_requests - sum(row.measured and row.failed for row in report.requests)
    lines = [
        f"{count_text(served)} of {count_text(figures.num_requests)} requests in"
        f" {report.window.seconds:,.1f} s: {figures.requests_per_s:,.2f} requests/s,"
        f" {figures.output_tokens_per_s:,.1f} output tokens/s",
    ]
    if figures.goodput_per_s is not None:
        lines.append(
            f"goodput {figures.goodput_per_s:,.2f} requests/s,"
            f" {share_text(figures.goodput_share)} of all ({report.bounds})"
        )
    if figures.num_prompt_tokens:
        lines.append(prompt_text(figures))
    for line in lines:
        say(console, line)
    if report.num_uncounted:
        say(console, uncounted_text(report), "bold red")
    if figures.ttft_ms:
        console.print(_times(report))
    style = "bold red" if report.limit.is_load_tool else ""
    say(console, f"limited by: {report.limit.where} ({report.limit.text})", style)
    _print_problems(report.problems(), "problem", console)
    _print_problems(report.problems(measured=False), "problem, not measured", console)


def _print_problems(problems: Sequence[tuple[str, int]], what: str, console: Console) -> None:
    for problem, count in problems[:MAX_PROBLEMS]:
        say(console, f"{what}, {count} times: {hinted(problem)}", "red")
    if more := more_problems_text(problems, MAX_PROBLEMS):
        say(console, more, "red")


def say(console: Console, text: str, style: str = "") -> None:
    """A line as it is: only a terminal wraps it."""
    console.print(Text(text, style), soft_wrap=True)


def _times(report: LoadReport) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("ms")
    for name in ("mean", "p50", "p90", "p99", "p99.9", "max"):
        table.add_column(name, justify="right")
    for name, attribute in STAT_NAMES.items():
        stats: Stats | None = getattr(report.figures, attribute)
        if stats is not None:
            times = (stats.mean, stats.p50, stats.p90, stats.p99, stats.p99_9, stats.max)
            table.add_row(name, *map(ms_text, times))
    return table


def print_comparison(comparison: Comparison, names: tuple[str, str], console: Console) -> None:
    """A row for each metric: both, the second by the first, and whether that says anything."""
    for difference in comparison.differences:
        say(console, f"not the same load: {difference}", "bold red")
    for name, report in zip(names, (comparison.first, comparison.second), strict=True):
        say(console, f"{name}: {prompt_text(report.figures)}", "dim")
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("")
    for name in (*names, "ratio", "95% interval"):
        table.add_column(Text(name), justify="right")
    table.add_column("")
    for row in comparison.rows:
        *cells, verdict = compared_texts(row)
        style = {"better": "green", "worse": "red"}.get(verdict, "")
        table.add_row(*map(Text, cells), Text(verdict, style))
    console.print(table)
