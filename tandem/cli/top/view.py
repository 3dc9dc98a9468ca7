"""What the user has chosen to see, and what keys do.

Times are microseconds on the gateway's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tandem.cli.top.history import History
from tandem.cli.top.tick import Tick

MIN_SPAN_US = 10_000
MAX_SPAN_US = 120_000_000
FIRST_SPAN_US = 4_000_000
ZOOM_STEP = 2
MOVE_SHARE = 0.25
# The present is drawn a little late, so that what happens at it has been heard of.
LAG_US = 400_000
DRAIN_S = 30.0
SERVES = ("serving", "suspect")
IS_OUT = ("draining", "drained")


class Window(NamedTuple):
    """The part of the time that is seen."""

    start_us: int
    end_us: int


class Order(NamedTuple):
    """`drain` or `undrain`, and whom."""

    verb: str
    worker_id: str


@dataclass
class View:
    """The lanes follow the present, or stand still where `still_us` says. `question` is an order
    that the user is asked about, `notice` what became of the last one."""

    span_us: int = FIRST_SPAN_US
    still_us: int | None = None
    selected: str | None = None
    question: Order | None = None
    notice: str = ""

    def window(self, tick: Tick) -> Window:
        """What is seen when `tick` is the newest."""
        end_us = present_us(tick) if self.still_us is None else self.still_us
        return Window(end_us - self.span_us, end_us)

    def press(self, key: str, history: History) -> Order | None:
        """Do what a key asks for, and return the order that it gives, if it gives one."""
        tick = history.tick
        if tick is None:
            return None
        if self.question:
            order, self.question = self.question, None
            return order if key == "y" else None
        self.notice = ""
        match key:
            case " " | "p":
                self.still_us = present_us(tick) if self.still_us is None else None
            case "+" | "=":
                self._zoom(1 / ZOOM_STEP)
            case "-" | "_":
                self._zoom(ZOOM_STEP)
            case "left":
                self._move(-MOVE_SHARE, tick)
            case "right":
                self._move(MOVE_SHARE, tick)
            case "end":
                self.still_us = None
            case "up" | "k":
                self._select(-1, tick)
            case "down" | "j":
                self._select(1, tick)
            case "d" | "u":
                return self._order(key, tick)
        return None

    def _zoom(self, factor: float) -> None:
        self.span_us = min(MAX_SPAN_US, max(MIN_SPAN_US, round(self.span_us * factor)))

    def _move(self, share: float, tick: Tick) -> None:
        """Stand still, and move: not beyond the present."""
        end_us = self.window(tick).end_us + round(share * self.span_us)
        self.still_us = min(end_us, present_us(tick))

    def _select(self, step: int, tick: Tick) -> None:
        names = [worker.id for worker in tick.workers]
        if not names:
            return
        if self.selected in names:
            place = names.index(self.selected) + step
        else:
            place = 0 if step > 0 else -1
        self.selected = names[place % len(names)]

    def _order(self, key: str, tick: Tick) -> Order | None:
        """To drain is asked first."""
        worker = next((each for each in tick.workers if each.id == self.selected), None)
        if worker is None:
            self.notice = "choose a worker first: up and down"
        elif key == "u" and worker.state in IS_OUT:
            return Order("undrain", worker.id)
        elif key == "d" and worker.state in SERVES:
            self.question = Order("drain", worker.id)
        else:
            self.notice = f"{worker.id} is {worker.state}"
        return None


def present_us(tick: Tick) -> int:
    """The present, as far as it is drawn."""
    return tick.now - LAG_US
