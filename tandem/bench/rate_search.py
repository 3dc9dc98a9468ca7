"""Which rates to try in order to find the highest that an arm keeps up with. Pure."""

from __future__ import annotations

import math

LADDER = 1.6
"""Between two rates of the ladder."""
MAX_STRIDE = 3
"""Rungs that are taken at once, at the most."""
MAX_RATES = 9
MAX_DESCENTS = 5


class RateSearch:
    """A geometric ladder, then bisection.

    It climbs until even the loosest objective is missed, by ever more rungs at once as long as the
    claim's is not, goes down from the start for as long as it is, and then halves, on a logarithmic
    scale, the bracket in which the claim's attainment falls below its bound, until that is as
    narrow as `tolerance`.
    """

    def __init__(self, start: float, tolerance: float = 1.1) -> None:
        """`start`: the first rate. `tolerance`: the ratio of the bracket's ends at the end."""
        self._start = start
        self._floor = start / LADDER ** (MAX_DESCENTS + 0.5)
        self._tolerance = tolerance
        self._holds: dict[float, bool] = {}
        self._highest_loose = True

    def record(self, rate: float, *, claim_holds: bool, loosest_holds: bool) -> None:
        """What came of a rate."""
        self._holds[rate] = claim_holds
        if rate == max(self._holds):
            self._highest_loose = loosest_holds

    def next_rate(self) -> float | None:
        """The next rate to try, or None if the search is over."""
        if not self._holds:
            return self._start
        if len(self._holds) >= MAX_RATES:
            return None
        low, high = self.bracket()
        lower = min(self._holds) / LADDER
        if low is None and lower > self._floor:
            # Before anything above: there may be nothing to find.
            return lower
        if self._highest_loose:
            return max(self._holds) * LADDER**self._stride
        if low is None or high is None or high / low <= self._tolerance:
            return None
        return math.sqrt(low * high)

    @property
    def _stride(self) -> int:
        """Rungs from the highest rate to the next."""
        return min(len(self._holds), MAX_STRIDE) if all(self._holds.values()) else 1

    def bracket(self) -> tuple[float | None, float | None]:
        """The highest rate up to which all held, and the lowest that did not."""
        failed = [rate for rate, holds in self._holds.items() if not holds]
        high = min(failed, default=None)
        held = [
            rate for rate, holds in self._holds.items() if holds and (high is None or rate < high)
        ]
        return max(held, default=None), high
