"""A call on the event loop at a time that may be set anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Calls `ring` at `at_s` by the `clock`, in monotonic seconds; never, while that is
    infinite."""

    def __init__(self, clock: Callable[[], float], ring: Callable[[], None]) -> None:
        self.at_s = inf
        self._clock = clock
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        """Ring then, and not when it was said before."""
        if at_s == self.at_s:
            return
        if self._timer:
            self._timer.cancel()
        self.at_s, self._timer = at_s, None
        if at_s < inf:
            delay_s = max(0.0, at_s - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def _due(self) -> None:
        self.at_s, self._timer = inf, None
        self._ring()
