"""The timeline as text: a line for each worker's steps, and one for its transfers."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from rich.text import Text

from tandem.cli.amounts import format_seconds
from tandem.core.pipeline import Lane
from tandem.core.reports import Span, SpanKind
from tandem.core.worker import WorkerRole

# A cell's share of time that is covered, in quarters; what is there at all is seen.
SHADES = " ░▒▓█"
STEP_STYLES = {WorkerRole.PREFILL: "cyan", WorkerRole.DECODE: "green"}
TRANSFER_STYLE = "yellow"
LEGEND = (("prefill", "cyan"), ("decode", "green"), ("KV transfer", TRANSFER_STYLE))
MIN_CELLS = 10


def draw(lanes: Sequence[Lane], width: int) -> Text:
    """The lanes, of which at least one has a step, from the first span to the last."""
    label_width = max(len(lane.worker_id) for lane in lanes) + 1
    rows = [row for lane in lanes for row in _rows(lane)]
    start_ns = min(start for _, intervals, _ in rows for start, _ in intervals)
    end_ns = max(end for _, intervals, _ in rows for _, end in intervals)
    cells = max(MIN_CELLS, width - label_width)
    text = Text(no_wrap=True)
    for label, intervals, style in rows:
        shares = coverage(intervals, start_ns, end_ns, cells)
        text.append(f"{label:<{label_width}}")
        text.append("".join(_shade(share) for share in shares) + "\n", style)
    text.append(" " * label_width)
    for name, style in LEGEND:
        text.append("█ ", style).append(f"{name}  ", "dim")
    return text.append(format_seconds((end_ns - start_ns) / 1e9) + " in all\n", "dim")


def coverage(
    intervals: Sequence[tuple[int, int]], start_ns: int, end_ns: int, cells: int
) -> list[float]:
    """The share of each cell's time that the intervals cover; where they overlap, at most 1."""
    cell_ns = max(1, end_ns - start_ns) / cells
    shares = [0.0] * cells
    for begin, end in intervals:
        first, last = (begin - start_ns) / cell_ns, (end - start_ns) / cell_ns
        # An instant is drawn as well: a fake engine's step may take no time at all.
        first_cell = min(cells - 1, int(first))
        for cell in range(first_cell, min(cells, max(first_cell + 1, ceil(last)))):
            shares[cell] += max(1e-9, min(last, cell + 1) - max(first, cell))
    return [min(1.0, share) for share in shares]


def _rows(lane: Lane) -> list[tuple[str, list[tuple[int, int]], str]]:
    """Label, intervals and style of each line."""
    steps, transfers = lane.of_kind(SpanKind.STEP), lane.of_kind(SpanKind.TRANSFER)
    rows = [(lane.worker_id, _intervals(lane, steps), STEP_STYLES[lane.role])]
    if transfers:
        rows.append(("", _intervals(lane, transfers), TRANSFER_STYLE))
    return rows


def _intervals(lane: Lane, spans: Sequence[Span]) -> list[tuple[int, int]]:
    offset = lane.clock_offset_ns
    return [(span.start_ns + offset, span.end_ns + offset) for span in spans]


def _shade(share: float) -> str:
    return SHADES[min(len(SHADES) - 1, int(share * 4) + (share > 0))]
