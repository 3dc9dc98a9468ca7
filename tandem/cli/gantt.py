"""The timeline as text: a line for each worker's steps, and one for its transfers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from rich.text import Text

from tandem.cli.amounts import format_seconds
from tandem.core.pipeline import Lane
from tandem.core.reports import Span, SpanKind

# A cell's share of time that is covered, in quarters; what is there at all is seen.
SHADES = " ░▒▓█"
PREFILL, DECODE, MIXED, TRANSFER = "cyan", "green", "blue", "yellow"
LEGEND = (("prefill", PREFILL), ("decode", DECODE), ("both", MIXED), ("KV transfer", TRANSFER))
MIN_CELLS = 10


def draw(lanes: Sequence[Lane], width: int) -> Text:
    """The lanes, of which at least one has a step, from the first span to the last."""
    label_width = max(len(lane.worker_id) for lane in lanes) + 1
    rows = [row for lane in lanes for row in _rows(lane)]
    intervals = [each for row in rows for layer in row.layers.values() for each in layer]
    start_ns = min(start for start, _ in intervals)
    end_ns = max(end for _, end in intervals)
    cells = max(MIN_CELLS, width - label_width)
    text = Text(no_wrap=True)
    for row in rows:
        text.append(f"{row.label:<{label_width}}")
        text.append_text(row.draw(start_ns, end_ns, cells)).append("\n")
    text.append(" " * label_width)
    seen = {style for row in rows for style in row.layers}
    for name, style in LEGEND:
        if style in seen:
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


@dataclass(frozen=True, slots=True)
class _Row:
    """One line. Its `layers` are intervals by style; a cell has that of the layer that covers most
    of it."""

    label: str
    layers: dict[str, list[tuple[int, int]]]

    def draw(self, start_ns: int, end_ns: int, cells: int) -> Text:
        shares = {
            style: coverage(intervals, start_ns, end_ns, cells)
            for style, intervals in self.layers.items()
        }
        text = Text()
        for cell in range(cells):
            style = max(shares, key=lambda each: shares[each][cell])
            text.append(_shade(min(1.0, sum(each[cell] for each in shares.values()))), style)
        return text


def _rows(lane: Lane) -> list[_Row]:
    steps: dict[str, list[Span]] = {}
    for step in lane.of_kind(SpanKind.STEP):
        steps.setdefault(_step_style(step), []).append(step)
    rows = [_Row(lane.worker_id, {style: _intervals(lane, each) for style, each in steps.items()})]
    if transfers := lane.of_kind(SpanKind.TRANSFER):
        rows.append(_Row("", {TRANSFER: _intervals(lane, transfers)}))
    return [row for row in rows if row.layers]


def _step_style(step: Span) -> str:
    if step.num_prefill_tokens == 0:
        return DECODE
    return PREFILL if step.num_prefill_tokens == step.num_tokens else MIXED


def _intervals(lane: Lane, spans: Sequence[Span]) -> list[tuple[int, int]]:
    offset = lane.clock_offset_ns
    return [(span.start_ns + offset, span.end_ns + offset) for span in spans]


def _shade(share: float) -> str:
    return SHADES[min(len(SHADES) - 1, int(share * 4) + (share > 0))]
