"""Of histograms that only grow, what came of late."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import inf

from tandem.core.histogram import Histogram


class RecentTimes:
    """What a histogram was told within its last ticks."""

    def __init__(self, histogram: Histogram, num_ticks: int) -> None:
        self._histogram = histogram
        self._kept = deque([_counts(histogram)], maxlen=num_ticks + 1)

    def tick(self) -> None:
        """Time goes on."""
        self._kept.append(_counts(self._histogram))

    def quantile(self, share: float) -> float | None:
        """What `share` of the values do not exceed, as far as the bounds can tell; None if there
        are none."""
        bounds = [bound for bound, _ in self._histogram.cumulative()]
        counts = [new - old for old, new in zip(self._kept[0], self._kept[-1], strict=True)]
        return quantile(bounds, counts, share)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Of values of which `counts[i]` are at most `bounds[i]`, the last bound infinite: as if they
    lay evenly between two bounds. What is beyond the last finite bound counts as that."""
    wanted = share * counts[-1]
    if counts[-1] == 0:
        return None
    for (low, num_below), (high, num) in pairwise(zip((0.0, *bounds), (0, *counts), strict=True)):
        if num >= wanted and num > num_below:
            if high == inf:
                return low
            return low + (high - low) * max(0.0, wanted - num_below) / (num - num_below)
    raise AssertionError("the last count is that of all values")


def _counts(histogram: Histogram) -> list[int]:
    return [count for _, count in histogram.cumulative()]
