"""Lets requests in a few at a time, however many come at once."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

# In a turn of the event loop: some tens of milliseconds of work. Between two turns tokens go on,
# and workers are told that their controller lives.
PER_TURN = 8
# Who would wait longer for a turn had better come again.
MAX_WAIT_S = 5.0
# What a turn takes, as long as none was measured, and how much each that is counts.
FIRST_TURN_S = 0.02
NEWEST_TURN_WEIGHT = 0.125


class Turnstile:
    """The line of those that have come and were not let in yet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self._line: deque[Callable[[], None]] = deque()
        # A moving average.
        self._turn_s = FIRST_TURN_S
        # When the turn before was, if there was a line behind it.
        self._turned_s: float | None = None

    @property
    def wait_s(self) -> float:
        """How long who comes now will wait, by the pace of late."""
        return len(self._line) / PER_TURN * self._turn_s

    def enter(self, start: Callable[[], None]) -> None:
        """Have `start` called when it is its turn."""
        if not self._line:
            self._let_in_soon()
        self._line.append(start)

    def _let_in_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        self._measure()
        turn = [self._line.popleft() for _ in range(min(PER_TURN, len(self._line)))]
        if self._line:
            self._turned_s = self._clock()
            self._let_in_soon()
        for start in turn:
            start()

    def _measure(self) -> None:
        """A turn lasts until the next, with all that the event loop does between: those that were
        let in, and the tokens of others."""
        if self._turned_s is not None:
            turn_s = self._clock() - self._turned_s
            self._turn_s += NEWEST_TURN_WEIGHT * (turn_s - self._turn_s)
            self._turned_s = None
