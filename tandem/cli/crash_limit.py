"""When to start a service again that has ended, and when to give up on it."""

from __future__ import annotations

from collections import deque

MAX_CRASHES = 5
WINDOW_S = 60.0
FIRST_DELAY_S = 1.0


class CrashLimit:
    """Allows fewer than `MAX_CRASHES` crashes in any `WINDOW_S`. The first is followed by a start
    at once, each further one within that time by one after twice the delay of the last."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MAX_CRASHES)

    def crashed(self, now_s: float) -> float | None:
        """Note a crash: in how many seconds the service is to be started again; None if it was one
        crash too many."""
        self._times.append(now_s)
        num_crashes = sum(now_s - time_s <= WINDOW_S for time_s in self._times)
        if num_crashes == MAX_CRASHES:
            return None
        return FIRST_DELAY_S * 2.0 ** (num_crashes - 2) if num_crashes > 1 else 0.0
