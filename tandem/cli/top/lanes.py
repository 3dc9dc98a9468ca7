"""The lanes: for each worker a line of its steps, and below it the KV on its way from a prefill
worker, or how large a decode worker's batches were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import ceil

from rich.text import Text

from tandem.bench.report.svg_plot import nice_step
from tandem.cli.amounts import format_seconds, format_share
from tandem.cli.gantt import (
    DECODE,
    Interval,
    Label,
    Row,
    step_style,
    touched_cells,
    transfer_layers,
)
from tandem.cli.top.history import Lane, Step, within
from tandem.cli.top.tick import Worker
from tandem.cli.top.view import Window

LABEL_WIDTH = 13
FIGURES_WIDTH = 6
BARS = " ▁▂▃▄▅▆▇█"
# Marks of the axis are at least so many cells apart.
MARK_WIDTH = 14
MIN_CELLS = 10


def num_cells(width: int) -> int:
    """Cells of the time's axis in a picture so wide."""
    return max(MIN_CELLS, width - LABEL_WIDTH - FIGURES_WIDTH)


def lane_lines(
    lane: Lane, worker: Worker | None, window: Window, cells: int, *, is_whole: bool
) -> list[Text]:
    """One line, or both if it `is_whole`. `worker` is None if it is gone."""
    steps = within(lane.steps, *window)
    line = _labelled(lane.worker_id, "" if worker else "dim")
    line.append_text(_steps_row(steps).draw(*window, cells))
    if worker:
        line.append(f" {format_share(worker.busy):>4}")
    if not is_whole:
        return [line]
    if lane.role == "prefill":
        below = _labelled("  KV", "dim").append_text(_transfers(lane, window, cells))
    else:
        below = _labelled("  batch", "dim").append_text(batch_bars(steps, window, cells))
        below.append(f" ×{steps[0].num_seqs}" if steps else "", "dim")
    return [line, below]


def batch_bars(steps: Sequence[Step], window: Window, cells: int) -> Text:
    """Sequences of a step, as bars, of which the highest is that of the largest batch in sight."""
    sizes = [0] * cells
    for step in steps:
        for cell in touched_cells((step.start_us, step.end_us), *window, cells):
            sizes[cell] = max(sizes[cell], step.num_seqs)
    most = max(1, *sizes)
    return Text("".join(BARS[ceil(size * (len(BARS) - 1) / most)] for size in sizes), DECODE)


def axis(window: Window, present_us: int, cells: int, *, is_still: bool) -> Text:
    """When what is drawn was, counted from the present, or from where it stands still."""
    origin_us = window.end_us if is_still else present_us
    end = "paused" if is_still else "now"
    tick_us = round(nice_step((window.end_us - window.start_us) * MARK_WIDTH / cells))
    line = [" "] * cells
    number = -1
    while origin_us + number * tick_us >= window.start_us:
        place = (
            (origin_us + number * tick_us - window.start_us)
            * cells
            // max(1, window.end_us - window.start_us)
        )
        mark = f"╵-{format_seconds(-number * tick_us / 1e6)}"
        if place + len(mark) < cells - len(end):
            line[place : place + len(mark)] = mark
        number -= 1
    line[cells - len(end) :] = end
    return _labelled("", "").append("".join(line), "dim")


def _labelled(label: str, style: str) -> Text:
    """The beginning of a line. Of a long name the end says more."""
    if len(label) >= LABEL_WIDTH:
        label = "…" + label[-(LABEL_WIDTH - 2) :]
    return Text(no_wrap=True).append(f"{label:<{LABEL_WIDTH}}", style)


def _steps_row(steps: Iterable[Step]) -> Row:
    layers: dict[str, list[Interval]] = {}
    labels = []
    for step in steps:
        interval = (step.start_us, step.end_us)
        layers.setdefault(step_style(step.num_tokens, step.num_prefill_tokens), []).append(interval)
        labels.append(Label(interval, _step_label(step)))
    return Row("", layers, labels)


def _step_label(step: Step) -> str:
    """Its prompt tokens, if it has any, and the batch's size."""
    batch = f"×{step.num_seqs}"
    return f"{step.num_prefill_tokens} {batch}" if step.num_prefill_tokens else batch


def _transfers(lane: Lane, window: Window, cells: int) -> Text:
    spans = within(lane.transfers, *window)
    layers: Mapping[str, Sequence[Interval]] = transfer_layers(
        ((span.start_us, span.end_us), span.exposed_us) for span in spans
    )
    return Row("", layers).draw(*window, cells)
