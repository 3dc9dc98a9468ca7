"""How far the gateway is behind: the one honest measure of one that has too much to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from statistics import median_low

from tandem.core.errors import Unavailable

INTERVAL_S = 0.05
# Streams feel less than that; workers are told that their controller lives ten times as often as
# they have to be.
MAX_LAG_S = 0.5
# And for so long: that a machine stood still for once, timers show right afterwards, and idle
# workers at their next heartbeat.
STANDING_S = 0.75


class Lag:
    """How late a timer of the event loop fires, or how old what decode workers say is when it is
    read, whichever is more. While each turn of the loop is short, and reads one message of each
    worker, seconds of their tokens may wait in buffers on the way. That counts as the age that most
    of them have: of several, one alone that is slow to be heard has a bad way here.

    Without `run` there is none; while the timer is overdue, it counts how late it is by now.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` tells monotonic seconds."""
        self._clock = clock
        self._due_s: float | None = None
        self._last_s = 0.0
        self._too_long_since_s: float | None = None
        self._ages_s: dict[str, float] = {}

    @property
    def seconds(self) -> float:
        overdue_s = 0.0 if self._due_s is None else self._clock() - self._due_s
        return max(self._last_s, overdue_s)

    @property
    def is_too_long(self) -> bool:
        """Whether whatever is new has to stay outside: it has been so late for a while."""
        since_s = self._too_long_since_s
        return since_s is not None and self._clock() - since_s >= STANDING_S

    def check(self) -> None:
        """Raise `Unavailable` if it is too long."""
        if self.is_too_long:
            raise Unavailable("the gateway has too much to do", retry_after_s=self.retry_after_s)

    @property
    def retry_after_s(self) -> float:
        """When to come again: no sooner than what is there has had its turn."""
        return max(1.0, 2 * self.seconds)

    def heard(self, worker_id: str, age_s: float) -> None:
        """What a decode worker said was read so long after it was said."""
        self._ages_s[worker_id] = age_s

    def forget(self, worker_id: str) -> None:
        """What a worker said last counts no more. Idempotent."""
        self._ages_s.pop(worker_id, None)

    async def run(self) -> None:
        """Measure, for ever. Once it is cancelled there is no lag any more."""
        try:
            while True:
                self._due_s = self._clock() + INTERVAL_S
                await asyncio.sleep(INTERVAL_S)
                now_s = self._clock()
                self._last_s = max(now_s - self._due_s, self._age_s())
                if self._last_s <= MAX_LAG_S:
                    self._too_long_since_s = None
                elif self._too_long_since_s is None:
                    self._too_long_since_s = now_s
        finally:
            self._due_s, self._last_s, self._too_long_since_s = None, 0.0, None

    def _age_s(self) -> float:
        """What most of the workers said last is at least as old."""
        return median_low(self._ages_s.values()) if self._ages_s else 0.0
