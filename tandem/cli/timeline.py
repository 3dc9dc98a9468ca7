"""`tandem timeline`: what the workers did of late, drawn and in figures, or saved to a file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import orjson
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from tandem.cli.amounts import format_bytes, format_seconds
from tandem.cli.files import writing
from tandem.cli.flags import GatewayFlags
from tandem.cli.gantt import draw
from tandem.cli.reaching import Reached, reached
from tandem.cli.tables import WIDE
from tandem.cli.timeline_svg import timeline_svg
from tandem.cli.trace_events import trace_events
from tandem.core.errors import ConfigError, NotFound
from tandem.core.pipeline import Lane, PipelineFigures, TransferFigures, pipeline_figures
from tandem.core.reports import SpanKind
from tandem.core.worker import WorkerRole
from tandem.v1 import inference_pb2, inference_pb2_grpc
from tandem.wire.reports import span_from_wire

TIMEOUT_S = 10.0
UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000}
# What the wire takes.
MAX_WINDOW_MS = 2**32 - 1

# How lanes are written, by the file's ending.
FORMATS: Mapping[str, Callable[[Sequence[Lane]], bytes]] = {
    ".json": lambda lanes: orjson.dumps(trace_events(lanes)),
    ".svg": lambda lanes: timeline_svg(lanes).encode(),
}


def show_timeline(gateway: GatewayFlags, window: str, save: Path | None) -> None:
    """Print the last `window`, and write it to the file `save`. Raises `TandemError`, `NotFound` if
    there is nothing to write."""
    window_ms = parse_window_ms(window)
    if save:
        check_format(save)
    with reached(gateway) as found:
        lanes = fetch_lanes(found, window_ms)
    console = Console(highlight=False)
    if not any(lane.of_kind(SpanKind.STEP) for lane in lanes):
        if save:
            raise NotFound(f"nothing ran within the last {window}: {save} was not written")
        console.print(f"nothing ran within the last {window}")
        return
    figures = pipeline_figures(lanes)
    console.print(draw(lanes, console.width))
    _print_whole(_lane_table(figures), console)
    console.print(_summary(figures))
    if save:
        save_timeline(lanes, save)
        console.print(f"saved to {save}", markup=False)


def _print_whole(table: Table, console: Console) -> None:
    """A narrow terminal wraps its lines: a number that is cut is another one."""
    whole = Measurement.get(console, console.options.update(width=WIDE), table).maximum
    Console(highlight=False, width=max(whole, console.width)).print(table)


def check_format(path: Path) -> None:
    """Raise `ConfigError` if the file's ending names no format."""
    if path.suffix not in FORMATS:
        known = " or ".join(FORMATS)
        raise ConfigError(f"cannot save to {path.name}: name a {known} file", param="save")


def save_timeline(lanes: Sequence[Lane], path: Path) -> None:
    """Write lanes, prefill workers first, in the format that the file's ending names. Raises
    `ConfigError`."""
    check_format(path)
    with writing(path):
        path.write_bytes(FORMATS[path.suffix](lanes))


def parse_window_ms(text: str) -> int:
    """`30s` -> 30000. Raises `ConfigError`."""
    match = re.fullmatch(r"(\d{1,6})(ms|s|m)", text, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise ConfigError(f"unknown window {text!r:.40}: write 500ms, 30s or 5m", param="window")
    window_ms = int(match[1]) * UNITS_MS[match[2]]
    if window_ms > MAX_WINDOW_MS:
        longest = f"{MAX_WINDOW_MS // UNITS_MS['m']}m"
        raise ConfigError(f"the window {text} is too long: {longest} at the most", param="window")
    return window_ms


def fetch_lanes(gateway: Reached, window_ms: int) -> list[Lane]:
    """The timeline, prefill workers first. Raises what gRPC does."""
    response = inference_pb2_grpc.InferenceServiceStub(gateway.channel).GetTimeline(
        inference_pb2.GetTimelineRequest(window_ms=window_ms),
        timeout=TIMEOUT_S,
        metadata=gateway.metadata,
    )
    lanes = [
        Lane(
            worker_id=lane.worker_id,
            role=WorkerRole(lane.role),
            spans=tuple(span_from_wire(span) for span in lane.spans),
            clock_offset_ns=lane.clock_offset_ns,
        )
        for lane in response.lanes
    ]
    return sorted(lanes, key=lambda lane: (lane.role, lane.worker_id))


def _lane_table(figures: PipelineFigures) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("worker", "busy", "steps", "gap p50", "gap p99"):
        table.add_column(name, justify="left" if name == "worker" else "right")
    for lane in figures.lanes:
        table.add_row(
            escape(lane.worker_id),
            f"{lane.busy_share:.0%}",
            str(lane.num_steps),
            format_seconds(lane.gap_p50_ns / 1e9),
            format_seconds(lane.gap_p99_ns / 1e9),
        )
    return table


def _transfers(figures: TransferFigures) -> str:
    if figures.count == 0:
        return "none"
    return (
        f"{figures.count}, {format_bytes(figures.num_bytes)},"
        f" {format_bytes(figures.bytes_per_s)}/s while sending,"
        f" {figures.hidden_share:.0%} hidden behind compute"
    )


def _summary(figures: PipelineFigures) -> str:
    return (
        f"transfers  {_transfers(figures.transfers)}\n"
        f"pipeline   {figures.efficiency:.0%} efficient over"
        f" {format_seconds(figures.makespan_ns / 1e9)} (busy / (engines x makespan))\n"
        "[dim]gap: from a step's end to the start of the next one whose work was there already[/]"
    )
