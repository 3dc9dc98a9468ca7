"""A load's report as a page."""

from __future__ import annotations

from collections.abc import Iterator

from tandem.bench.report.figures import Figures
from tandem.bench.report.html import Html, card, element, header, joined, page, table, text
from tandem.bench.report.limit import Limit
from tandem.bench.report.load_plots import (
    itl_cdf,
    legend,
    over_time,
    stage_bars,
    tpot_cdf,
    ttft_by_prompt,
    ttft_cdf,
)
from tandem.bench.report.load_report import LoadReport
from tandem.bench.report.server_account import ServerAccount
from tandem.bench.report.stats import Stats
from tandem.bench.report.svg_plot import NARROW
from tandem.bench.report.wording import (
    NOTHING,
    count_text,
    load_text,
    more_problems_text,
    ms_text,
    share_text,
    stopped_text,
    uncounted_text,
)

MAX_PROBLEMS = 20
STAT_NAMES = {
    "TTFT": "ttft_ms",
    "TPOT": "tpot_ms",
    "ITL": "itl_ms",
    "Latency": "latency_ms",
}


def load_page(report: LoadReport) -> str:
    """A document that stands alone."""
    measured = [row for row in report.requests if row.served]
    bounds = report.bounds
    title = f"{report.target.model} under load"
    distributions = element(
        "div",
        joined(
            [
                card("Time to first token (TTFT)", ttft_cdf([measured], bounds, NARROW)),
                card("Time per output token (TPOT)", tpot_cdf([measured], bounds, NARROW)),
                card("Between tokens (ITL)", itl_cdf([measured], NARROW)),
            ]
        ),
        "thirds",
    )
    return page(
        title,
        _head(report, title),
        _limit(report.limit),
        *_uncounted(report),
        _cards(report),
        card("Times, ms", _times(report.figures)),
        distributions,
        element("div", joined(_over_time(report)), "halves"),
        *_server(report),
        *_problems(report),
        element("div", joined(_facts(report)), "halves"),
    )


def _head(report: LoadReport, title: str) -> Html:
    target = report.target
    line = f"{load_text(report.load)} · {target.url} ({target.protocol}) · {report.began_at}"
    if stopped := stopped_text(report):
        line += f" · {stopped}"
    return header(title, line)


def _limit(limit: Limit) -> Html:
    words = joined([element("b", text(f"Limited by: {limit.where}.")), text(limit.text)])
    loud = " loud" if limit.is_load_tool else ""
    return element("section", element("p", words), f"card limit{loud}")


def _uncounted(report: LoadReport) -> Iterator[Html]:
    if report.num_uncounted:
        yield element("section", element("p", text(uncounted_text(report))), "card limit loud")


def _cards(report: LoadReport) -> Html:
    figures = report.figures
    failed = f"{figures.num_failed} failed" if figures.num_failed else "none failed"
    goodput = (
        (NOTHING, "no bounds were given")
        if figures.goodput_per_s is None
        else (f"{figures.goodput_per_s:,.2f}", f"{share_text(figures.goodput_share)} in time")
    )
    return element(
        "div",
        joined(
            [
                _card("Output", f"{figures.output_tokens_per_s:,.1f}", "tokens/s"),
                _card("Served", f"{figures.requests_per_s:,.2f}", "requests/s", failed),
                _card("TTFT p50", *_middle(figures.ttft_ms)),
                _card("TPOT p50", *_middle(figures.tpot_ms)),
                _card("ITL p50", *_middle(figures.itl_ms)),
                _card("Goodput", goodput[0], "requests/s", goodput[1]),
            ]
        ),
        "figures",
    )


def _middle(stats: Stats | None) -> tuple[str, str, str]:
    if stats is None:
        return NOTHING, "", ""
    return ms_text(stats.p50), "ms", f"p99 {ms_text(stats.p99)}"


def _card(heading: str, value: str, unit: str, note: str = "") -> Html:
    number = joined([text(value), Html(" "), element("small", text(unit))])
    return card(
        heading, element("div", number, "value"), element("div", text(note or "\u00a0"), "note")
    )


def _times(figures: Figures) -> Html:
    rows: list[list[str]] = []
    for name, attribute in STAT_NAMES.items():
        stats: Stats | None = getattr(figures, attribute)
        if stats is not None:
            times = (
                *(stats.mean, stats.std, stats.min, stats.p50, stats.p90, stats.p95, stats.p99),
                *(stats.p99_9, stats.max),
            )
            rows.append([name, count_text(stats.count), *map(ms_text, times)])
    headings = ("", "count", "mean", "std", "min", "p50", "p90", "p95", "p99", "p99.9", "max")
    return table(headings, rows)


def _over_time(report: LoadReport) -> Iterator[Html]:
    measured = [row for row in report.requests if row.measured]
    names = [("requests under way", "violet"), ("output tokens/s (right)", "green")]
    yield card("Over time", legend(names), over_time(report.requests, report.window))
    names = [("kept to the bounds", "blue"), ("did not", "red")] if report.bounds else []
    yield card(
        "TTFT over prompt length, ms",
        legend(names or [("a request", "blue")]),
        ttft_by_prompt(measured, report.bounds),
    )


def _server(report: LoadReport) -> Iterator[Html]:
    server = report.server
    if server is None:
        return
    latency = report.figures.latency_ms
    if server.stages.decode_ms is not None or server.stages.prefill_ms is not None:
        yield card(
            "Where a request's time went, on average",
            stage_bars(server, latency.mean if latency else None),
        )
    parts = [card("What the server says", table(("", ""), _server_facts(server)))]
    if server.workers:
        rows = [[each.worker, each.role, share_text(each.busy_share)] for each in server.workers]
        holdups = [[each.where, share_text(each.share), each.text] for each in server.holdups]
        parts.append(
            card(
                "Workers",
                table(("worker", "role", "busy"), rows),
                table(("held up by", "of the time", "on average"), holdups),
            )
        )
    yield element("div", joined(parts), "halves")


def _server_facts(server: ServerAccount) -> list[list[str]]:
    facts: list[list[str]] = [
        ["observed", f"{server.seconds:,.1f} s, {server.num_scrapes} times"],
        ["requests running, waiting", f"{_mean(server.num_running)}, {_mean(server.num_waiting)}"],
        ["KV blocks in use", share_text(server.kv_usage)],
        ["prompt tokens cached", share_text(server.cached_share)],
        ["preemptions", count_text(server.preemptions)],
    ]
    if server.efficiency is not None:
        facts.append(["pipeline efficiency", share_text(server.efficiency)])
    if transfers := server.transfers:
        moved = f"{transfers.num_bytes / 1e6:,.1f} MB"
        facts += [
            ["recoveries", count_text(server.recoveries)],
            ["KV transfers", f"{count_text(transfers.count)}, {moved}"],
            ["hidden behind computing", share_text(transfers.hidden_share)],
        ]
    return facts


def _mean(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _problems(report: LoadReport) -> Iterator[Html]:
    for heading, measured in (("Problems", True), ("Problems beside what is measured", False)):
        if problems := report.problems(measured=measured):
            rows = [[problem, count_text(count)] for problem, count in problems[:MAX_PROBLEMS]]
            if more := more_problems_text(problems, MAX_PROBLEMS):
                rows.append([more, ""])
            yield card(heading, table(("", "times"), rows))


def _facts(report: LoadReport) -> Iterator[Html]:
    figures, tool, load = report.figures, report.tool, report.load
    yield card(
        "What was asked",
        table(
            ("", ""),
            [
                ["model", report.target.model],
                ["workload", load_text(load)],
                ["prompts", load.prompts],
                ["lengths", f"{load.length_scale:g} times"],
                ["seed", str(load.seed)],
                ["bounds", str(report.bounds) if report.bounds else "none"],
                [
                    "load tool late, p50 / p99 / max",
                    f"{' / '.join(map(ms_text, _late(report)))} ms",
                ],
                ["load tool's cores", f"{tool.cores:.2f}"],
            ],
        ),
    )
    chunks, cached = figures.tokens_per_chunk, figures.num_cached_tokens
    measured = f"{count_text(figures.num_requests)} requests in {report.window.seconds:,.2f} s"
    yield card(
        "What came",
        table(
            ("", ""),
            [
                ["measured", measured],
                ["prompt tokens", count_text(figures.num_prompt_tokens)],
                ["prompt tokens cached", NOTHING if cached is None else count_text(cached)],
                ["prompt tokens/s", f"{figures.prompt_tokens_per_s:,.1f}"],
                ["output tokens", count_text(figures.num_output_tokens)],
                ["tokens in a piece of an answer", NOTHING if chunks is None else f"{chunks:g}"],
                ["requests beside, not measured", count_text(_num_beside(report))],
                ["Tandem", report.tandem],
            ],
        ),
    )


def _num_beside(report: LoadReport) -> int:
    return len(report.requests) - report.figures.num_requests


def _late(report: LoadReport) -> tuple[float, float, float]:
    tool = report.tool
    return tool.late_p50_ms, tool.late_p99_ms, tool.late_max_ms
