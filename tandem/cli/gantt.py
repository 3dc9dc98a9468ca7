"""Lanes as text: a line for each worker's steps, and one for its transfers.

Times are of any unit and clock, as long as all that is drawn together is on the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

from tandem.core.pipeline import Lane, exposed_ns
from tandem.core.reports import Span, SpanKind, step_kind

# A cell's share of time that is covered, in quarters; what is there at all is seen.
SHADES = " ░▒▓█"
PREFILL, DECODE, MIXED, TRANSFER, EXPOSED = "cyan", "green", "blue", "yellow", "red"
STEPS = {"prefill": PREFILL, "decode": DECODE, "both": MIXED}
LEGEND = {**STEPS, "KV transfer": TRANSFER, "not hidden": EXPOSED}
# What is told from the rest without colours as well.
MARKS: Mapping[str, str] = {EXPOSED: "╳"}
MIN_CELLS = 10

Interval = tuple[int, int]


class Label(NamedTuple):
    """What an interval is called, where there is room."""

    interval: Interval
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line. Its `layers` are intervals by style; a cell has that of the layer that covers most
    of it. `labels` are those of intervals that are seen."""

    label: str
    layers: Mapping[str, Sequence[Interval]]
    labels: Sequence[Label] = field(default=())

    def draw(self, start: int, end: int, cells: int) -> Text:
        """From `start` to `end`, in so many cells."""
        shares = {
            style: coverage(intervals, start, end, cells)
            for style, intervals in self.layers.items()
        }
        drawn = [
            _cell({style: each[cell] for style, each in shares.items()}) for cell in range(cells)
        ]
        self._write_labels(drawn, start, end)
        text = Text()
        for style, run in groupby(drawn, key=lambda each: each.style):
            text.append("".join(each.glyph for each in run), style)
        return text

    def _write_labels(self, drawn: list[_Cell], start: int, end: int) -> None:
        for interval, text in self.labels:
            room = touched_cells(interval, start, end, len(drawn))
            if len(room) < len(text) + 2:
                continue
            for cell, glyph in enumerate(text, room.start + (len(room) - len(text)) // 2):
                drawn[cell] = _Cell(glyph, f"reverse {drawn[cell].style}")


class _Cell(NamedTuple):
    glyph: str
    style: str


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
    return text.append_text(legend({style for row in rows for style in row.layers})).append("\n")


def legend(styles: Iterable[str]) -> Text:
    """What the styles stand for."""
    seen = set(styles)
    text = Text()
    for name, style in LEGEND.items():
        if style in seen:
            text.append(MARKS.get(style, SHADES[-1]) + " ", style).append(f"{name}  ", "dim")
    return text


def step_style(num_tokens: int, num_prefill_tokens: int) -> str:
    """That of a step with so many tokens, some of them of prompts."""
    return STEPS[step_kind(num_tokens, num_prefill_tokens)]


def transfer_layers(transfers: Iterable[tuple[Interval, int]]) -> dict[str, list[Interval]]:
    """Those of transfers of which the last so much of the time was hidden by no computing."""
    layers: dict[str, list[Interval]] = {TRANSFER: [], EXPOSED: []}
    for (start, end), exposed in transfers:
        layers[TRANSFER].append((start, end - exposed))
        if exposed:
            layers[EXPOSED].append((end - exposed, end))
    return {style: each for style, each in layers.items() if each}


def coverage(intervals: Sequence[Interval], start: int, end: int, cells: int) -> list[float]:
    """The share of each cell's time that the intervals cover; where they overlap, at most 1. Of an
    interval counts what lies between `start` and `end`."""
    per_cell = max(1, end - start) / cells
    shares = [0.0] * cells
    for begin, until in intervals:
        if until < start or begin > end:
            continue
        first, last = (begin - start) / per_cell, (until - start) / per_cell
        for cell in touched_cells((begin, until), start, end, cells):
            shares[cell] += max(1e-9, min(last, cell + 1) - max(first, cell))
    return [min(1.0, share) for share in shares]


def touched_cells(interval: Interval, start: int, end: int, cells: int) -> range:
    """The cells in which an interval that is seen lies. An instant has one as well: a fake engine's
    step may take no time at all."""
    width = max(1, end - start)
    first = min(cells - 1, max(0, (interval[0] - start) * cells // width))
    last = -((start - interval[1]) * cells // width)
    return range(first, min(cells, max(first + 1, last)))


def _cell(shares: Mapping[str, float]) -> _Cell:
    style = max(shares, key=lambda each: shares[each], default="")
    share = min(1.0, sum(shares.values()))
    shade = SHADES[min(len(SHADES) - 1, int(share * 4) + (share > 0))]
    return _Cell(MARKS.get(style, shade) if share else shade, style)


def _rows(lane: Lane) -> list[Row]:
    steps: dict[str, list[Span]] = {}
    for step in lane.of_kind(SpanKind.STEP):
        steps.setdefault(step_style(step.num_tokens, step.num_prefill_tokens), []).append(step)
    rows = [Row(lane.worker_id, {style: _intervals(lane, each) for style, each in steps.items()})]
    if transfers := lane.of_kind(SpanKind.TRANSFER):
        intervals = _intervals(lane, transfers)
        exposed = [exposed_ns(each) for each in transfers]
        rows.append(Row("", transfer_layers(zip(intervals, exposed, strict=True))))
    return [row for row in rows if row.layers]


def _intervals(lane: Lane, spans: Sequence[Span]) -> list[Interval]:
    offset = lane.clock_offset_ns
    return [(span.start_ns + offset, span.end_ns + offset) for span in spans]
