"""The whole picture, for a size: the less room there is, the less detail it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tandem.cli.gantt import DECODE, EXPOSED, MIXED, PREFILL, TRANSFER, legend
from tandem.cli.top.history import History, Lane
from tandem.cli.top.lanes import LABEL_WIDTH, axis, lane_lines, num_cells
from tandem.cli.top.panels import (
    CHARTS,
    bottleneck,
    chart_columns,
    charts,
    figures,
    stages,
    totals,
    workers,
)
from tandem.cli.top.tick import Tick
from tandem.cli.top.view import DRAIN_S, View, present_us

# Lines that are always there: heading, figures, bottleneck, axis, legend, stages, totals, the
# table's heading, keys.
FIXED_LINES = 1 + 2 + 1 + 1 + 1 + 2 + 1 + 1 + 1
NUM_GAPS = 3
KEYS = "q quit  space pause  +/- zoom  ←/→ move  ↑/↓ worker  d drain  u undrain"
STYLES = (PREFILL, DECODE, MIXED, TRANSFER, EXPOSED)

ItemT = TypeVar("ItemT")


class Size(NamedTuple):
    """Columns, and lines; of a picture that is printed there is no end of the latter."""

    width: int
    height: int | None


class Detail(NamedTuple):
    """How much is drawn: lanes with what is below them, charts, empty lines between the parts, and
    at most so many lanes and workers."""

    whole_lanes: bool
    charts: bool
    gaps: bool
    num_shown: int


class Contents(NamedTuple):
    """What there is to draw, of which there may be much: lanes, workers, and lines of charts."""

    num_lanes: int
    num_workers: int
    num_chart_lines: int

    def num_lines(self, detail: Detail) -> int:
        """Those of a picture with such detail."""
        num_lanes = min(self.num_lanes, detail.num_shown)
        num_workers = min(self.num_workers, detail.num_shown)
        is_cut = max(self.num_lanes, self.num_workers) > detail.num_shown
        return (
            FIXED_LINES
            + num_lanes * (2 if detail.whole_lanes else 1)
            + num_workers
            + detail.charts * self.num_chart_lines
            + detail.gaps * NUM_GAPS
            + is_cut
        )


def choose_detail(contents: Contents, height: int | None) -> Detail:
    """The most that fits."""
    every = max(1, contents.num_lanes, contents.num_workers)
    richest = Detail(whole_lanes=True, charts=True, gaps=True, num_shown=every)
    if height is None:
        return richest
    poorer = [
        richest,
        richest._replace(gaps=False),
        richest._replace(gaps=False, whole_lanes=False),
        *(Detail(False, False, False, num_shown) for num_shown in range(every, 1, -1)),
    ]
    fitting = (each for each in poorer if contents.num_lines(each) <= height)
    return next(fitting, Detail(False, False, False, 1))


def picture(
    history: History, view: View, status: str, size: Size, *, has_keys: bool
) -> RenderableType:
    """All that is to be seen. `status` is that of the connection; empty if it is live."""
    tick = history.tick
    if tick is None:
        return Text(status)
    lanes = history.shown_lanes()
    num_chart_lines = -(-len(CHARTS) // chart_columns(size.width))
    contents = Contents(len(lanes), len(tick.workers), num_chart_lines)
    detail = choose_detail(contents, size.height)
    gap = [Text()] if detail.gaps else []
    parts: list[RenderableType] = [
        _heading(tick, status),
        figures(tick, history.samples[-1], size.width),
        bottleneck(tick),
        *gap,
        *_timeline(lanes, tick, view, size, detail),
        *gap,
        stages(tick.requests, size.width),
        totals(tick),
    ]
    if detail.charts:
        parts.append(charts(history.samples, size.width))
    parts += [*gap, *_workers(tick, view, size, detail)]
    if has_keys:
        parts.append(_footer(tick, view))
    return Group(*parts)


def around(items: Sequence[ItemT], place: int, num_shown: int) -> Sequence[ItemT]:
    """So many of the items, that at `place` among them."""
    first = max(0, min(place - num_shown // 2, len(items) - num_shown))
    return items[first : first + num_shown]


def topology(tick: Tick) -> str:
    """As `tandem up --topology` has it."""
    roles = [worker.role for worker in tick.workers]
    num_prefill, num_decode = roles.count("prefill"), roles.count("decode")
    return f"{num_prefill}p{num_decode}d" if num_prefill else f"colocated:{num_decode}"


def _heading(tick: Tick, status: str) -> Table:
    table = Table.grid(expand=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column(no_wrap=True, justify="right")
    model = f"  {tick.model}, {topology(tick)}" if tick.model else "  no worker has joined"
    state = Text(status, "bold red") if status else Text("live", "green")
    table.add_row(Text("Tandem", "bold").append(model, "not bold"), state)
    return table


def _timeline(
    lanes: Sequence[Lane], tick: Tick, view: View, size: Size, detail: Detail
) -> list[RenderableType]:
    window, cells = view.window(tick), num_cells(size.width)
    known = {worker.id: worker for worker in tick.workers}
    names = [lane.worker_id for lane in lanes]
    place = names.index(view.selected) if view.selected in names else 0
    lines: list[RenderableType] = []
    for lane in around(lanes, place, detail.num_shown):
        worker = known.get(lane.worker_id)
        lines += lane_lines(lane, worker, window, cells, is_whole=detail.whole_lanes)
    is_still = view.still_us is not None
    lines.append(axis(window, present_us(tick), cells, is_still=is_still))
    lines.append(Text(" " * LABEL_WIDTH, no_wrap=True).append_text(legend(STYLES)))
    return lines


def _workers(tick: Tick, view: View, size: Size, detail: Detail) -> list[RenderableType]:
    names = [worker.id for worker in tick.workers]
    place = names.index(view.selected) if view.selected in names else 0
    shown = around(tick.workers, place, detail.num_shown)
    parts: list[RenderableType] = [workers(shown, view.selected, size.width)]
    if len(shown) < len(tick.workers):
        parts.append(Text(f"  and {len(tick.workers) - len(shown)} more", "dim"))
    return parts


def _footer(tick: Tick, view: View) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    if view.question is None:
        return line.append(view.notice, "bold") if view.notice else line.append(KEYS, "dim")
    worker_id = view.question.worker_id
    what = f"what it does not finish in {DRAIN_S:.0f} s goes on elsewhere"
    if any(each.needed for each in tick.workers if each.id == worker_id):
        what = "no other serves, and new requests are refused"
    return line.append(f"drain {worker_id}? y/n", "bold reverse").append(f"  {what}")
