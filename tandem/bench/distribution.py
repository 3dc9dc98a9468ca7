"""Times, counted by tenths of a millisecond: small to keep, exact to merge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from tandem.bench.percentiles import weighted_percentiles

PER_S = 10_000
MS_PER_COUNT = 0.1


class Distribution:
    """How often each time occurred."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        self._counts = Counter(counts or {})

    @classmethod
    def of(cls, times_s: Iterable[float]) -> Distribution:
        """Of times in seconds."""
        return cls(Counter(round(each * PER_S) for each in times_s))

    @classmethod
    def merged(cls, several: Iterable[Distribution]) -> Distribution:
        """All times of several."""
        whole = cls()
        for each in several:
            whole._counts.update(each._counts)
        return whole

    @classmethod
    def from_json(cls, pairs: Iterable[tuple[int, int]]) -> Distribution:
        """What `to_json` made."""
        return cls(dict(pairs))

    def to_json(self) -> list[tuple[int, int]]:
        """Pairs of tenths of a millisecond and how often they occurred, in order."""
        return sorted(self._counts.items())

    def __len__(self) -> int:
        return self._counts.total()

    def percentile_ms(self, percent: float) -> float | None:
        """None if there are no times."""
        if not self._counts:
            return None
        tenths, counts = np.array(self.to_json()).T
        return round(float(weighted_percentiles(tenths, counts, (percent,))[0]) * MS_PER_COUNT, 1)

    def max_ms(self) -> float | None:
        """The longest time; None if there is none."""
        return round(max(self._counts) * MS_PER_COUNT, 1) if self._counts else None

    def num_over_ms(self, bound: float) -> int:
        """How many times were longer."""
        return sum(count for tenths, count in self._counts.items() if tenths * MS_PER_COUNT > bound)
