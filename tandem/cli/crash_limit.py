"""When to give up on a service that keeps ending."""

from __future__ import annotations

from collections import deque

MAX_CRASHES = 3
WINDOW_S = 30.0


class CrashLimit:
    """Allows fewer than `MAX_CRASHES` crashes in any `WINDOW_S`."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=MAX_CRASHES)

    def crashed(self, now_s: float) -> bool:
        """Note a crash; whether it was one too many."""
        self._times.append(now_s)
        return len(self._times) == MAX_CRASHES and now_s - self._times[0] <= WINDOW_S
