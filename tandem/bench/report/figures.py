"""A load in figures, worked out from its rows alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tandem.bench.report.bounds import Bounds
from tandem.bench.report.rows import RequestRow
from tandem.bench.report.stats import Stats

# Times of tokens are sums, and the window may end with the last of them.
ROUNDING_MS = 1e-3


@dataclass(frozen=True, slots=True)
class Window:
    """What is measured, in milliseconds from the run's start."""

    start_ms: float
    end_ms: float

    @property
    def seconds(self) -> float:
        return (self.end_ms - self.start_ms) / 1e3

    def holds(self, at_ms: float) -> bool:
        return self.start_ms - ROUNDING_MS <= at_ms <= self.end_ms + ROUNDING_MS


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of requests are of those that were measured, times of the served ones among them.
    Rates count what ended, and the tokens that came, within the window, whosever they are: a run
    that lets everything end would otherwise have the rate of what it asked for.
    `prompt_tokens_per_s` are those of prompts whose first token came there, `goodput_per_s` those
    of what ended that kept to the bounds. `goodput_share` is of those that were measured: it counts
    as well what never ended.

    `itl_ms` are the times between pieces of an answer that brought tokens, which are as many as
    tokens if `tokens_per_chunk` is 1. `num_cached_tokens` is None if the server does not tell.
    """

    num_requests: int
    num_failed: int
    num_prompt_tokens: int
    num_output_tokens: int
    num_cached_tokens: int | None
    tokens_per_chunk: float | None
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    goodput_per_s: float | None
    goodput_share: float | None
    ttft_ms: Stats | None
    tpot_ms: Stats | None
    itl_ms: Stats | None
    latency_ms: Stats | None


def figures_of(rows: Sequence[RequestRow], window: Window, bounds: Bounds | None) -> Figures:
    """All of them."""
    measured = [row for row in rows if row.measured]
    served = [row for row in rows if row.served]
    ended = [row for row in rows if _ended_in(row, window)]
    num_chunks = sum(1 + len(row.chunk_ms) for row in served)
    num_output = sum(row.num_output for row in served)
    return Figures(
        num_requests=len(measured),
        num_failed=sum(row.failed for row in measured),
        num_prompt_tokens=sum(row.num_prompt for row in served),
        num_output_tokens=num_output,
        num_cached_tokens=_cached(served),
        tokens_per_chunk=round(num_output / num_chunks, 3) if num_chunks else None,
        requests_per_s=_rate(len(ended), window),
        output_tokens_per_s=_rate(output_tokens(rows, window), window),
        prompt_tokens_per_s=_rate(_prompt_tokens(rows, window), window),
        goodput_per_s=_rate(_num_good(ended, bounds), window) if bounds else None,
        goodput_share=(
            round(_num_good(measured, bounds) / len(measured), 4) if bounds and measured else None
        ),
        ttft_ms=Stats.of(ttfts(served)),
        tpot_ms=Stats.of(tpots(served)),
        itl_ms=Stats.of([gap for row in served for gap in row.chunk_ms]),
        latency_ms=Stats.of(latencies(served)),
    )


def ttfts(rows: Sequence[RequestRow]) -> list[float]:
    return [row.ttft_ms for row in rows if row.ttft_ms is not None]


def tpots(rows: Sequence[RequestRow]) -> list[float]:
    return [tpot for row in rows if (tpot := row.tpot_ms) is not None]


def latencies(rows: Sequence[RequestRow]) -> list[float]:
    return [row.latency_ms for row in rows if row.latency_ms is not None]


def output_tokens(rows: Sequence[RequestRow], window: Window) -> int:
    """Those that came in the window, of all requests."""
    return sum(count for row in rows for at_ms, count in row.arrivals() if window.holds(at_ms))


def _num_good(rows: Sequence[RequestRow], bounds: Bounds) -> int:
    return sum(map(bounds.met_by, rows))


def _prompt_tokens(rows: Sequence[RequestRow], window: Window) -> int:
    return sum(
        row.num_prompt
        for row in rows
        if row.ttft_ms is not None and window.holds(row.due_ms + row.ttft_ms)
    )


def _ended_in(row: RequestRow, window: Window) -> bool:
    return (
        not row.problem and row.latency_ms is not None and window.holds(row.due_ms + row.latency_ms)
    )


def _cached(rows: Sequence[RequestRow]) -> int | None:
    told = [row.num_cached for row in rows if row.num_cached is not None]
    return sum(told) if told else None


def cached_share(figures: Figures) -> float | None:
    """Of prompt tokens, what the server had cached; None if it does not tell."""
    if figures.num_cached_tokens is None or not figures.num_prompt_tokens:
        return None
    return figures.num_cached_tokens / figures.num_prompt_tokens


def _rate(count: int, window: Window) -> float:
    return round(count / window.seconds, 3) if window.seconds > 0 else 0.0
