"""The plots of one load, or of several that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

from tandem.bench.percentiles import percentiles
from tandem.bench.report.bounds import Bounds
from tandem.bench.report.figures import Window, latencies, tpots, ttfts
from tandem.bench.report.html import Html, element, joined, text
from tandem.bench.report.rows import RequestRow
from tandem.bench.report.server_account import ServerAccount
from tandem.bench.report.svg_plot import WIDTH, Axis, Plot, Point, amounts_axis, times_axis

Rows = Sequence[RequestRow]

# Enough for a curve as wide as a page.
NUM_QUANTILES = 200
NUM_BUCKETS = 120
MAX_DOTS = 3000
COLOURS = ("blue", "amber")


def legend(names: Sequence[tuple[str, str]]) -> Html:
    """Of pairs of a name and a colour."""
    items = joined(element("li", text(name), colour) for name, colour in names)
    return element("ul", items, "legend")


def ttft_cdf(loads: Sequence[Rows], bounds: Bounds | None, width: int = WIDTH) -> Html:
    bound = bounds.ttft_ms if bounds else None
    return _cdf("time to first token, ms", [ttfts(each) for each in loads], bound, width)


def tpot_cdf(loads: Sequence[Rows], bounds: Bounds | None, width: int = WIDTH) -> Html:
    bound = bounds.tpot_ms if bounds else None
    return _cdf("time per token after the first, ms", [tpots(each) for each in loads], bound, width)


def itl_cdf(loads: Sequence[Rows], width: int = WIDTH) -> Html:
    gaps = [[gap for row in each for gap in row.chunk_ms] for each in loads]
    return _cdf("time between tokens, ms", gaps, None, width)


def latency_cdf(loads: Sequence[Rows], bounds: Bounds | None) -> Html:
    bound = bounds.latency_ms if bounds else None
    return _cdf("time to the last token, ms", [latencies(each) for each in loads], bound, WIDTH)


def _cdf(label: str, loads: Sequence[Sequence[float]], bound: float | None, width: int) -> Html:
    """The share of values that are at most so much."""
    axis = times_axis(label, [value for each in loads for value in each], _number)
    plot = Plot(f"distribution: {label}", axis, _share_axis(), width=width)
    for values, colour in zip(loads, COLOURS, strict=False):
        plot.curve(_quantiles(values), colour)
    if bound is not None:
        plot.mark_x(bound)
    return plot.svg()


def _quantiles(values: Sequence[float]) -> list[Point]:
    if not values:
        return []
    percents = [100 * number / NUM_QUANTILES for number in range(NUM_QUANTILES + 1)]
    shares = [percent / 100 for percent in percents]
    return list(zip(percentiles(values, percents).tolist(), shares, strict=True))


def ttft_by_prompt(rows: Rows, bounds: Bounds | None) -> Html:
    """Who missed the bounds stands out."""
    shown = [row for row in rows if row.ttft_ms is not None]
    shown = shown[:: -(-len(shown) // MAX_DOTS) or 1]
    plot = Plot(
        "time to first token over prompt length",
        amounts_axis("prompt tokens", [row.num_prompt for row in shown], _number),
        amounts_axis("", [row.ttft_ms or 0.0 for row in shown], _number),
    )
    for colour, is_good in (("blue", True), ("red", False)):
        plot.dots(
            [
                (row.num_prompt, row.ttft_ms or 0.0)
                for row in shown
                if (bounds is None or bounds.met_by(row)) is is_good
            ],
            colour,
        )
    return plot.svg()


def over_time(rows: Rows, window: Window) -> Html:
    """Requests under way, and tokens a second, all through the run."""
    end_ms = max([window.end_ms, *(row.due_ms + (row.latency_ms or 0.0) for row in rows)])
    bucket_ms = max(end_ms, 1.0) / NUM_BUCKETS
    running, tokens = _running(rows, bucket_ms), _tokens(rows, bucket_ms)
    middles = [(number + 0.5) * bucket_ms / 1e3 for number in range(NUM_BUCKETS)]
    rates = [count / bucket_ms * 1e3 for count in tokens]
    plot = Plot(
        "requests under way and tokens a second over time",
        Axis("seconds", 0.0, max(end_ms, 1.0) / 1e3),
        amounts_axis("", running, _number),
        y_right=amounts_axis("", rates, _number),
    )
    under_way = list(zip(middles, map(float, running), strict=True))
    plot.area(under_way, "violet")
    plot.curve(under_way, "violet")
    plot.curve(list(zip(middles, rates, strict=True)), "green", on_right=True)
    for edge_ms in (window.start_ms, window.end_ms):
        if 0 < edge_ms < end_ms:
            plot.mark_x(edge_ms / 1e3)
    return plot.svg()


def _running(rows: Rows, bucket_ms: float) -> list[int]:
    """At the middle of each bucket, how many were due and not over."""
    changes = [0] * (NUM_BUCKETS + 1)
    for row in rows:
        ended_ms = row.due_ms + (row.latency_ms or 0.0)
        for at_ms, change in ((row.due_ms, 1), (ended_ms, -1)):
            changes[min(NUM_BUCKETS, max(0, int(at_ms / bucket_ms + 0.5)))] += change
    return list(accumulate(changes[:NUM_BUCKETS]))


def _tokens(rows: Rows, bucket_ms: float) -> list[int]:
    counts = [0] * NUM_BUCKETS
    for row in rows:
        for at_ms, count in row.arrivals():
            counts[min(NUM_BUCKETS - 1, int(at_ms / bucket_ms))] += count
    return counts


STAGES = (("queue", "violet"), ("prefill", "blue"), ("decode", "green"), ("the rest", "amber"))
BAR_TOP, BAR_HEIGHT = 8, 34
BAR_WIDTH = 1000


def stage_bars(server: ServerAccount, mean_latency_ms: float | None) -> Html:
    """Where a request's time went on average, by the server; what that does not tell of the
    clients' latency is the rest: the way there and back, and the front."""
    stages = server.stages
    known = [stages.queue_ms or 0.0, stages.prefill_ms or 0.0, stages.decode_ms or 0.0]
    rest = max(0.0, (mean_latency_ms or 0.0) - sum(known))
    times = [*known, rest]
    whole = sum(times) or 1.0
    parts = []
    x = 0.0
    for time_ms, (name, colour) in zip(times, STAGES, strict=True):
        width = time_ms / whole * BAR_WIDTH
        title = f"{name}: {time_ms:.1f} ms, {time_ms / whole:.0%}"
        parts.append(
            f'<rect class="{colour}" x="{x:.1f}" y="{BAR_TOP}" width="{max(0.0, width - 1):.1f}"'
            f' height="{BAR_HEIGHT}" rx="3"><title>{text(title)}</title></rect>'
        )
        x += width
    bars = Html(
        f'<svg viewBox="0 0 {BAR_WIDTH} {BAR_TOP + BAR_HEIGHT}" role="img"'
        f' aria-label="stages of a request">{"".join(parts)}</svg>'
    )
    names = [
        (f"{name} {time_ms:,.1f} ms ({time_ms / whole:.0%})", colour)
        for time_ms, (name, colour) in zip(times, STAGES, strict=True)
    ]
    return joined([legend(names), bars])


def _share_axis() -> Axis:
    percent: Callable[[float], str] = "{:.0%}".format
    return Axis("", 0.0, 1.0, format=percent)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10 else f"{value:.3g}"
