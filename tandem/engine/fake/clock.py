"""Time as the fake engine sees it; tests put their own in its place."""

from __future__ import annotations

import time
from typing import Protocol

EARLY_S = 100e-6
"""`time.sleep` was measured to overshoot by 80 to 100 us on Linux (timer slack of 50 us and the
wake-up), so ask for that much less and spin over what may be left."""


class Clock(Protocol):
    """A monotonic clock, in seconds."""

    def now(self) -> float: ...

    def sleep_until(self, when: float) -> None:
        """Block the calling thread until `now() >= when`."""
        ...


class RealClock:
    """The host's clock. Sleeping releases the GIL, except for the last `EARLY_S`."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep_until(self, when: float) -> None:
        early = when - EARLY_S - self.now()
        if early > 0:
            time.sleep(early)
        while self.now() < when:
            pass


def wait_until(clock: Clock, when: float) -> None:
    """Sleep until `when`, or not at all if that is past: without modelled time nothing sleeps."""
    if clock.now() < when:
        clock.sleep_until(when)
