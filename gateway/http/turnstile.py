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


class Turnstile:
    """The line of those that have come and were not let in yet."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self._line: deque[tuple[float, Callable[[], None]]] = deque()

    @property
    def wait_s(self) -> float:
        """How long the first in the line has waited."""
        return self._clock() - self._line[0][0] if self._line else 0.0

    def enter(self, start: Callable[[], None]) -> None:
        """Have `start` called when it is its turn."""
        if not self._line:
            self._let_in_soon()
        self._line.append((self._clock(), start))

    def _let_in_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        turns = [self._line.popleft() for _ in range(min(PER_TURN, len(self._line)))]
        if self._line:
            self._let_in_soon()
        for _, start in turns:
            start()
