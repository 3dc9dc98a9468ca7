"""The generations that must have ended by some time, in the order of these times."""

from __future__ import annotations

from bisect import bisect_left, insort
from math import inf

from gateway.generation import Generation


class Deadlines:
    """Of those generations that have one. They leave when they end, however far off it is."""

    def __init__(self) -> None:
        self._generations: list[Generation] = []

    @property
    def next_s(self) -> float:
        """The first, in monotonic seconds; infinity if there is none."""
        return self._generations[0].request.deadline_s if self._generations else inf

    def due(self, now: float) -> list[Generation]:
        """Those whose time is over."""
        end = bisect_left(self._generations, (now, inf), key=_key)
        return self._generations[:end]

    def add(self, generation: Generation) -> None:
        if generation.request.deadline_s < inf:
            insort(self._generations, generation, key=_key)

    def discard(self, generation: Generation) -> None:
        if generation.request.deadline_s < inf:
            del self._generations[bisect_left(self._generations, _key(generation), key=_key)]


def _key(generation: Generation) -> tuple[float, float]:
    return generation.request.deadline_s, generation.arrival
