"""Counts of values by size."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import inf


class Histogram:
    """How many values were at most each of `bounds`, which rise. An observation costs a search in a
    short list: for what happens with every token, where a lock and labels would be most of it."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, inf)
        self._counts = [0] * len(self._bounds)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """All values."""
        return sum(self._counts)

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Each bound, the last one infinite, and how many values were at most that."""
        return zip(self._bounds, accumulate(self._counts), strict=True)
