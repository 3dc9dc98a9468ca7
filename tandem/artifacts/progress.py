"""How long work on models is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

DOWNLOADING = "downloading"


class ProgressCallback(Protocol):
    """Is told that `stage` has done `done` of `total`, in any unit, bytes if it is `DOWNLOADING`;
    the total is None where nobody knows it."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


def silent(stage: str, done: int, total: int | None) -> None:
    """Shows nothing."""


@contextmanager
def terminal_progress(model: str) -> Iterator[ProgressCallback]:
    """A bar on standard error for each stage of getting a model, while the context lasts; where
    that is no terminal, lines."""
    if not sys.stderr.isatty():
        lines = StageLines(model)
        yield lines
        lines.done()
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        yield StageBars(bars)


class StageLines:
    """A line on standard error for each stage as it begins, and for the end of all; none if there
    is nothing to do."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._last: tuple[str, int | None] | None = None

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if (stage, total) != self._last:
            self._last = stage, total
            self._say(f"{stage} {total / 1e6:.0f} MB" if total and stage == DOWNLOADING else stage)

    def done(self) -> None:
        if self._last:
            self._say("done")

    def _say(self, what: str) -> None:
        with suppress(OSError):
            print(f"model {self._model}: {what}", file=sys.stderr, flush=True)


class StageBars:
    """A bar for each stage, in the order in which they begin."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self._tasks:
            for task in self._tasks.values():  # one begins when the one before is done
                self._bars.update(task, total=1, completed=1)
            self._tasks[stage] = self._bars.add_task(stage, total=total)
        self._bars.update(self._tasks[stage], completed=done, total=total)
