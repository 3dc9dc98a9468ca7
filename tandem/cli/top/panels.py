"""What is text around the lanes: figures, requests, charts, workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tandem.cli.amounts import format_bytes, format_count, format_seconds, format_share
from tandem.cli.gantt import DECODE, PREFILL, TRANSFER
from tandem.cli.top.history import Sample
from tandem.cli.top.lanes import BARS
from tandem.cli.top.tick import Quantiles, Requests, Tick, Totals, Worker

STAGES = (
    ("queued", "waiting", "dim"),
    ("prefill", "prefill", PREFILL),
    ("transfer", "KV on its way", TRANSFER),
    ("decode", "decode", DECODE),
)
PLACES = {
    "workers": "Workers",
    "prefill": "Prefill",
    "transfers": "Transfers",
    "decode": "Decode",
    "clients": "Clients",
    "none": "Idle",
}
STATE_STYLES = {"serving": "", "suspect": "red"}
LEAVING = "yellow"
CHARTED_US = 60_000_000
TITLE_WIDTH = 15
VALUE_WIDTH = 8
GAUGE_WIDTH = 8
EIGHTHS = " ▏▎▍▌▋▊▉█"
# In a narrow picture the device is left out; in a narrower one what else would cut numbers short.
DEVICE_FROM = 90
ALL_FROM = 76

ValueT = TypeVar("ValueT")


class Chart(NamedTuple):
    """One of the small ones. `most` is its highest value; 0: the highest in sight."""

    title: str
    read: Callable[[Sample], float | None]
    format: Callable[[float], str]
    style: str
    most: float = 0.0


CHARTS = (
    Chart("tokens/s", lambda sample: sample.generated, format_count, DECODE),
    Chart("first token", lambda sample: sample.first_token, format_seconds, PREFILL),
    Chart("between tokens", lambda sample: sample.between_tokens, format_seconds, DECODE),
    Chart("waiting", lambda sample: sample.waiting, format_count, TRANSFER),
    Chart("KV pool", lambda sample: sample.pool, format_share, TRANSFER, 1.0),
    Chart("prefix hits", lambda sample: sample.prefix_hits, format_share, PREFILL, 1.0),
)


def or_dash(value: ValueT | None, write: Callable[[ValueT], str]) -> str:
    """A dash for what is not known."""
    return "–" if value is None else write(value)


def figures(tick: Tick, sample: Sample, width: int) -> Table:
    """Two lines: what the figures are called, and they."""
    shown = {
        "generated": f"{or_dash(sample.generated, format_count)} tok/s",
        "first token p50/p99": _quantiles(tick.first_token_s),
        "between p50/p99": _quantiles(tick.between_tokens_s),
    }
    if width >= ALL_FROM:
        shown["KV hidden"] = or_dash(tick.pipeline.hidden, format_share)
        shown["efficiency"] = or_dash(tick.pipeline.efficiency, format_share)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in shown:
        table.add_column(name, no_wrap=True)
    table.add_row(*(Text(value, "bold") for value in shown.values()))
    return table


def bottleneck(tick: Tick) -> Text:
    """One line."""
    where, text = tick.bottleneck.where, tick.bottleneck.text
    line = Text("bottleneck ", "dim", no_wrap=True, overflow="ellipsis")
    return line.append(PLACES.get(where, where), "bold").append(f": {text}")


def stages(requests: Requests, width: int) -> Table:
    """Two lines: how many requests are where, and as many marks."""
    table = Table.grid()
    column = max(2, width // len(STAGES))
    for _ in STAGES:
        table.add_column(width=column, no_wrap=True, overflow="crop")
    counts = [requests.counts.get(stage, 0) for stage, _, _ in STAGES]
    table.add_row(
        *(
            Text(f"{title if width >= ALL_FROM else stage} ", "dim").append(
                format_count(count), "bold not dim"
            )
            for (stage, title, _), count in zip(STAGES, counts, strict=True)
        )
    )
    table.add_row(
        *(
            Text(_marks(count, column - 1), style)
            for (_, _, style), count in zip(STAGES, counts, strict=True)
        )
    )
    return table


def totals(tick: Tick) -> Text:
    """One line: what has become of requests, and what waits."""
    totals = tick.totals
    parts = [
        f"{format_count(totals.finished)} done",
        f"{format_bytes(totals.kv_bytes)} of KV moved",
    ]
    parts += [f"{format_count(count)} {what}" for count, what in _setbacks(totals) if count]
    num_queued_tokens = tick.queue[1]
    if num_queued_tokens:
        parts.append(f"{format_count(num_queued_tokens)} prompt tokens wait")
    return Text(" · ".join(parts), "dim", no_wrap=True, overflow="ellipsis")


def chart_columns(width: int) -> int:
    """Charts beside each other."""
    return 3 if width >= 110 else 2


def charts(samples: Sequence[Sample], width: int) -> Table:
    """The last minute in small."""
    columns = chart_columns(width)
    column = width // columns
    table = Table.grid()
    for _ in range(columns):
        table.add_column(width=column, no_wrap=True, overflow="crop")
    lines = [_chart_line(chart, samples, column - 2) for chart in CHARTS]
    for first in range(0, len(lines), columns):
        table.add_row(*lines[first : first + columns])
    return table


def workers(workers: Sequence[Worker], selected: str | None, width: int) -> Table:
    """A line for each, and one above."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    names = ["worker", "role", "state", "device", "busy", "sequences", "KV pool", "prefix hits"]
    left_out = {
        *(("device",) if width < DEVICE_FROM else ()),
        *(("role", "prefix hits") if width < ALL_FROM else ()),
    }
    shown = [name for name in names if name not in left_out]
    for name in shown:
        is_number = name in ("busy", "sequences", "prefix hits")
        table.add_column(name, no_wrap=True, justify="right" if is_number else "left")
    for worker in workers:
        cells: dict[str, RenderableType] = {
            "worker": _worker_name(worker, is_selected=worker.id == selected),
            "role": worker.role,
            "state": Text(worker.state, STATE_STYLES.get(worker.state, LEAVING)),
            "device": worker.device,
            "busy": format_share(worker.busy),
            "sequences": f"{worker.sequences}/{worker.places}",
            "KV pool": _gauge(worker.used_share).append(f" {format_share(worker.used_share):>4}"),
            "prefix hits": or_dash(worker.prefix_hits, format_share),
        }
        table.add_row(*(cells[name] for name in shown))
    return table


def spark(values: Sequence[float | None], most: float) -> str:
    """A bar for each; nothing for what is not known."""
    top = len(BARS) - 1
    return "".join(
        " " if value is None else BARS[max(1, min(top, round(value * top / most)))]
        for value in values
    )


def resampled(
    points: Sequence[tuple[int, float | None]], start_us: int, end_us: int, cells: int
) -> list[float | None]:
    """The mean of the values in each cell's time; None where there are none."""
    sums = [0.0] * cells
    counts = [0] * cells
    for at_us, value in points:
        cell = (at_us - start_us) * cells // max(1, end_us - start_us)
        if value is not None and 0 <= cell <= cells:
            sums[min(cell, cells - 1)] += value
            counts[min(cell, cells - 1)] += 1
    return [total / count if count else None for total, count in zip(sums, counts, strict=True)]


def _quantiles(quantiles: Quantiles) -> str:
    return " / ".join(or_dash(each, format_seconds) for each in quantiles)


def _marks(count: int, room: int) -> str:
    return "■" * count if count <= room else "■" * (room - 1) + "+"


def _setbacks(totals: Totals) -> list[tuple[int, str]]:
    return [
        (totals.failed, "failed"),
        (totals.refused, "refused"),
        (totals.preemptions, "preempted"),
        (totals.recoveries, "recovered"),
    ]


def _chart_line(chart: Chart, samples: Sequence[Sample], width: int) -> Text:
    cells = max(1, width - TITLE_WIDTH - VALUE_WIDTH)
    points = [(sample.at_us, chart.read(sample)) for sample in samples]
    end_us = samples[-1].at_us
    values = resampled(points, end_us - CHARTED_US, end_us, cells)
    most = chart.most or max((value for value in values if value is not None), default=0) or 1
    line = Text(f"{chart.title:<{TITLE_WIDTH}}", "dim")
    line.append(spark(values, most), f"not dim {chart.style}")
    return line.append(f"{or_dash(points[-1][1], chart.format):>{VALUE_WIDTH}}", "not dim")


def _worker_name(worker: Worker, *, is_selected: bool) -> Text:
    style = PREFILL if worker.role == "prefill" else DECODE
    return Text("▸" if is_selected else "●", style).append(
        f" {worker.id}", "default bold" if is_selected else "default"
    )


def _gauge(share: float) -> Text:
    eighths = round(min(1.0, share) * GAUGE_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    bar = "█" * full + (EIGHTHS[rest] if rest else "")
    return Text.assemble((f"{bar:<{GAUGE_WIDTH}}", f"{TRANSFER} on bright_black"))
