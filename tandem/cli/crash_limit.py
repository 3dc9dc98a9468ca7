"""When to start a service again that has ended, and when it does nothing but crash."""

from __future__ import annotations

from collections import deque

MAX_CRASHES = 5
WINDOW_S = 60.0
FIRST_DELAY_S = 1.0
MAX_DELAY_S = 30.0


class CrashLimit:
    """Counts the crashes of a service within `WINDOW_S`, for which time stands still while it is
    not to be started. The first is followed by a start at once, each further one by one after twice
    the delay of the last, up to `MAX_DELAY_S`."""

    def __init__(self) -> None:
        # Of as many the delay is the longest.
        self._times: deque[float] = deque(maxlen=16)
        self._delays_s = 0.0

    def crashed(self, now_s: float) -> float:
        """Note a crash: in how many seconds the service is to be started again."""
        self._times.append(now_s - self._delays_s)
        num_crashes = self._num_crashes(now_s)
        delay_s = FIRST_DELAY_S * 2.0 ** (num_crashes - 2) if num_crashes > 1 else 0.0
        delay_s = min(delay_s, MAX_DELAY_S)
        self._delays_s += delay_s
        return delay_s

    def is_loop(self, now_s: float) -> bool:
        """Whether there were `MAX_CRASHES` at least."""
        return self._num_crashes(now_s) >= MAX_CRASHES

    def _num_crashes(self, now_s: float) -> int:
        return sum(now_s - self._delays_s - time_s <= WINDOW_S for time_s in self._times)
