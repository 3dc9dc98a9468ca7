"""Percentiles as other load tools have them: interpolated between the two nearest values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        figures = (array.mean(), array.std(), array.min(), *np.percentile(array, PERCENTS))
        return cls(len(values), *(round(float(each), DIGITS) for each in (*figures, array.max())))


def weighted_percentiles(
    ordered: NDArray[np.float64], weights: NDArray[np.int64], percents: Sequence[float]
) -> NDArray[np.float64]:
    """`numpy.percentile` of values in order, each as often as its weight says. NaN of none."""
    reached = np.cumsum(weights)
    if reached.size == 0 or reached[-1] == 0:
        return np.full(len(percents), np.nan)
    ranks = (reached[-1] - 1) * np.asarray(percents) / 100
    below, above = (
        ordered[np.searchsorted(reached, each, side="right")]
        for each in (np.floor(ranks), np.ceil(ranks))
    )
    return np.asarray(below + (ranks - np.floor(ranks)) * (above - below))
