"""Draws the steps that are kept beside their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from figure_files import save
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from performance.engine_tables import DECODE, PREFILL
from performance.gpu_tables import GPU_DECODE, GPU_PREFILL
from performance.record import FOLDER, records
from performance.table import AnyTable

SHADES = ("#0b5fa5", "#3f8fd2", "#9cc9ef")
INKS = ("white", "white", "black")


@dataclass(frozen=True)
class Group:
    """Bars that stand together, a shade each, and the bound that they are held against."""

    label: str
    bars: Sequence[tuple[str, float]]
    bound: float


@dataclass(frozen=True)
class Panel:
    """One machine's, and so many threads'."""

    title: str
    groups: Sequence[Group]


Groups = Callable[[AnyTable, Sequence[Any]], list[Group]]


def draw_all() -> None:
    """Into the folder of the records; a plot of which nothing is kept is left out."""
    for table, label, groups in (
        (DECODE, "step / floor", by_batch),
        (PREFILL, "products alone / prefill", by_prompts),
        (GPU_DECODE, "floor / step", by_batch),
        (GPU_PREFILL, "of a large product's rate", by_prompts),
    ):
        if panels := list(panels_of(table, groups)):
            save(drawn(panels, label), FOLDER, table.name)


def panels_of(table: AnyTable, groups: Groups) -> Iterator[Panel]:
    """One for each machine and, where there are more, number of threads."""
    for record in records(table.name):
        rows = record.rows_of(table)
        for threads in dict.fromkeys(getattr(row, "threads", None) for row in rows):
            chosen = [row for row in rows if getattr(row, "threads", None) == threads]
            by = {None: "", 1: ", 1 thread"}.get(threads, f", {threads} threads")
            yield Panel(f"{record.machine.key}{by}", groups(table, chosen))


def by_batch(table: AnyTable, rows: Sequence[Any]) -> list[Group]:
    """A bar for each context."""
    (goal,) = table.goals
    return [
        Group(
            str(batch),
            [(str(row.context), goal.figure(row) or 0.0) for row in rows if row.batch == batch],
            goal.bound.value,
        )
        for batch in dict.fromkeys(row.batch for row in rows)
    ]


def by_prompts(table: AnyTable, rows: Sequence[Any]) -> list[Group]:
    """A bar each, by the goal that means it."""
    return [
        Group(f"{row.batch} x {row.length}", [("", figure)], goal.bound.value)
        for row in rows
        for goal in table.goals
        if (figure := goal.figure(row)) is not None
    ]


def drawn(panels: Sequence[Panel], label: str) -> Figure:
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.9 * len(panels) + 0.6, 2.9), sharey=True, squeeze=False
    )
    for panel, axis in zip(panels, axes[0], strict=True):
        _bars(axis, panel)
    axes[0][0].set_ylabel(label)
    figure.tight_layout()
    return figure


def _bars(axis: Axes, panel: Panel) -> None:
    for place, group in enumerate(panel.groups):
        width = 0.8 / len(group.bars)
        for index, ((name, value), shade) in enumerate(zip(group.bars, SHADES, strict=False)):
            at = place + (index - (len(group.bars) - 1) / 2) * width
            axis.bar(at, value, 0.9 * width, color=shade, label=name if not place else None)
            axis.annotate(
                f"{value:.2f}", (at, value), (0, -2), textcoords="offset points",
                ha="center", va="top", fontsize=5, color=INKS[index],
            )  # fmt: skip
        axis.hlines(group.bound, place - 0.48, place + 0.48, color="#d1603d", lw=0.9, ls="--")
    axis.set_xticks(range(len(panel.groups)), [group.label for group in panel.groups])
    axis.set_title(panel.title, fontsize=7)
    if any(name for name, _ in panel.groups[0].bars):
        axis.set_xlabel("batch; shades by context", fontsize=7)
        axis.legend(fontsize=6, ncols=3, loc="upper center")
        axis.margins(y=0.2)
