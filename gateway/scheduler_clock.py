"""The scheduler's time: it reads no clock, but is told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SchedulerClock:
    """What time it is, in monotonic seconds, as far as the scheduler knows."""

    now_s: float = 0.0

    def advance(self, now: float) -> None:
        """It is `now`. Time goes on, never back."""
        self.now_s = max(self.now_s, now)
