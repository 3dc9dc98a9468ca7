"""Percentiles by the one rule that all figures of load tools and benchmarks have:
`numpy.percentile`'s, as vLLM's load tool and aiperf have it. The rank is a share of the way from
the first value to the last; between two values it is interpolated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def percentiles(values: ArrayLike, percents: Sequence[float]) -> NDArray[np.float64]:
    """NaN of none. A value may be infinite, of what never came, and so are the percentiles that it
    counts in."""
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    return weighted_percentiles(ordered, np.ones(len(ordered), dtype=np.int64), percents)


def weighted_percentiles(
    ordered: NDArray[np.float64], weights: NDArray[np.int64], percents: Sequence[float]
) -> NDArray[np.float64]:
    """Of values in order, each as often as its weight says. NaN of none."""
    reached = np.cumsum(weights)
    if reached.size == 0 or reached[-1] == 0:
        return np.full(len(percents), np.nan)
    ranks = (reached[-1] - 1) * np.asarray(percents) / 100
    below, above = (
        ordered[np.searchsorted(reached, each, side="right")]
        for each in (np.floor(ranks), np.ceil(ranks))
    )
    # Not of two that are infinite.
    steps = np.subtract(above, below, out=np.zeros(len(percents)), where=above > below)
    return np.asarray(below + (ranks - np.floor(ranks)) * steps)


def quartiles(values: ArrayLike) -> tuple[float, float, float]:
    """The first, the median, and the third."""
    low, middle, high = percentiles(values, (25, 50, 75)).tolist()
    return low, middle, high
