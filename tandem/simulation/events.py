"""Virtual time: the clock stands at whatever happens, and then jumps to what is due next."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

HOP_S = 125e-6
"""What a message takes between two processes: stated, not fitted."""


class Events:
    """What is to happen, by time. Of events that are due at the same time, who was planned first
    comes first: so a run is a function of what it begins with."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._numbers = count()
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []

    @property
    def now_ns(self) -> int:
        return to_ns(self.now_s)

    def at(self, when_s: float, call: Callable[..., object], *args: Any) -> None:
        """Have something called at a time that is not past."""
        heappush(self._heap, (max(when_s, self.now_s), next(self._numbers), call, args))

    def after(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        """Have something called in so many seconds."""
        self.at(self.now_s + delay_s, call, *args)

    def run(self, *, until: Callable[[], bool] = lambda: False, limit_s: float = inf) -> None:
        """Let things happen until there are no more, `until` holds, or the next one is behind
        `limit_s`."""
        heap = self._heap
        while heap and heap[0][0] <= limit_s and not until():
            self.now_s, _, call, args = heappop(heap)
            call(*args)


def to_ns(seconds: float) -> int:
    """As workers stamp what they do."""
    return round(seconds * 1e9)
