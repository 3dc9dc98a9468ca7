"""What a report says of many values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tandem.bench.percentiles import percentiles

PERCENTS = (50.0, 90.0, 95.0, 99.0, 99.9)
DIGITS = 3


@dataclass(frozen=True, slots=True)
class Stats:
    """Of some values; in what they are in."""

    count: int
    mean: float
    std: float
    min: float
    p50: float
    p90: float
    p95: float
    p99: float
    p99_9: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Stats | None:
        """None if there are none. `std` is that of the values themselves, not of a population that
        they are a sample of."""
        if not values:
            return None
        array = np.asarray(values, dtype=np.float64)
        figures = (array.mean(), array.std(), array.min(), *percentiles(array, PERCENTS))
        return cls(len(values), *(round(float(each), DIGITS) for each in (*figures, array.max())))
