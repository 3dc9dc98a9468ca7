"""How far the event loop is behind: the one honest measure of a gateway that has too much to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from tandem.core.errors import Unavailable

INTERVAL_S = 0.05
# Streams feel less than that; workers are told that their controller lives ten times as often as
# they have to be.
MAX_LAG_S = 0.5


class LoopLag:
    """Measured by a timer, by how late it fires; while it is overdue, by how late it is by now.
    Without `run` there is none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self._due_s: float | None = None
        self._last_s = 0.0

    @property
    def seconds(self) -> float:
        overdue_s = 0.0 if self._due_s is None else self._clock() - self._due_s
        return max(self._last_s, overdue_s)

    @property
    def is_too_long(self) -> bool:
        """Whether whatever is new has to stay outside."""
        return self.seconds > MAX_LAG_S

    def check(self) -> None:
        """Raise `Unavailable` if it is too long."""
        if self.is_too_long:
            raise Unavailable("the gateway has too much to do", retry_after_s=self.retry_after_s)

    @property
    def retry_after_s(self) -> float:
        """When to come again: no sooner than what is there has had its turn."""
        return max(1.0, 2 * self.seconds)

    async def run(self) -> None:
        """Measure, for ever. Once it is cancelled there is no lag any more."""
        try:
            while True:
                self._due_s = self._clock() + INTERVAL_S
                await asyncio.sleep(INTERVAL_S)
                self._last_s = self._clock() - self._due_s
        finally:
            self._due_s, self._last_s = None, 0.0
