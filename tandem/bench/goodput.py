"""Goodput: the highest rate at which 90% of requests are served as they should be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SHARE = 0.9
NUM_RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Level:
    """One rate that was tried: how many requests a second, how many were measured, and how many of
    them met the objective."""

    rate: float
    num_requests: int
    num_met: int

    @property
    def attainment(self) -> float:
        return self.num_met / self.num_requests if self.num_requests else 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the bounds of its bootstrap interval (95%)."""

    value: float
    low: float
    high: float


def goodput(levels: Sequence[Level]) -> float:
    """The rate at which the attainment falls to `SHARE`: between the highest rate that holds and
    the next one it is interpolated. 0 if not even the lowest holds; the highest rate if all do,
    which is then a lower bound.

    More load serves nobody better: where a measured attainment rises with the rate, that is chance,
    and such rates count as one (isotonic regression, weighted by requests).
    """
    rates, counts, met = _columns(levels)
    return float(_crossings(rates, counts, met[np.newaxis])[0])


def goodput_samples(levels: Sequence[Level], seed: int = 0) -> NDArray[np.float64]:
    """The goodput of `NUM_RESAMPLES` resamples: of each rate's requests as many are drawn with
    replacement, so that the number that met the objective is binomial."""
    rates, counts, met = _columns(levels)
    rng = np.random.default_rng(seed)
    drawn = rng.binomial(counts, met / counts, (NUM_RESAMPLES, len(rates)))
    return _crossings(rates, counts, drawn)


def interval(value: float, samples: NDArray[np.float64]) -> Interval:
    """An estimate between the percentiles of its resamples."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def goodput_interval(levels: Sequence[Level]) -> Interval:
    """The goodput with its interval."""
    return interval(goodput(levels), goodput_samples(levels))


def ratio_interval(arm: Sequence[Level], others: Sequence[Sequence[Level]]) -> Interval | None:
    """An arm's goodput by that of the best of others, which each resample chooses anew; None if the
    others have none, or an infinite bound where resamples of them have none."""
    if not any(goodput(levels) > 0 for levels in others):
        return None
    tail = (1 - CONFIDENCE) / 2
    return _ratio(arm, others, tail, 1 - tail)


def best_ratio_interval(
    arms: Sequence[Sequence[Level]], others: Sequence[Sequence[Level]]
) -> Interval | None:
    """The goodput of the best of some arms by that of the best of others; None if those have none.

    The best of many is in part the luckiest: of eight arms that are all alike, the best of seven
    beat the one left in a tenth of all comparisons. So each side pays for being chosen, by the
    number that it was chosen from (Bonferroni): at the bound that speaks for it.
    """
    best, base = (max(side, key=goodput, default=()) for side in (arms, others))
    if not best or not base or goodput(base) == 0:
        return None
    tail = (1 - CONFIDENCE) / 2
    return _ratio(best, [base], tail / len(arms), 1 - tail / len(others))


def _ratio(
    arm: Sequence[Level], others: Sequence[Sequence[Level]], low: float, high: float
) -> Interval:
    # Each with its own resamples: the runs were independent of each other.
    samples = goodput_samples(arm, 0)
    bases = np.max([goodput_samples(levels, 1 + i) for i, levels in enumerate(others)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(bases > 0, samples / bases, np.inf)
    bounds = np.quantile(ratios, (low, high), method="nearest")
    return Interval(goodput(arm) / max(map(goodput, others)), *map(float, bounds))


def _columns(
    levels: Sequence[Level],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Rates, increasing; requests; those that met the objective. A rate at which none was measured
    counts as missed."""
    ordered = sorted(levels, key=lambda level: level.rate)
    return (
        np.array([level.rate for level in ordered]),
        np.array([max(1, level.num_requests) for level in ordered]),
        np.array([level.num_met for level in ordered]),
    )


def _crossings(
    rates: NDArray[np.float64], counts: NDArray[np.int64], met: NDArray[np.int64]
) -> NDArray[np.float64]:
    """For each row of `met` `[num_rows, num_rates]`: where the attainment falls to `SHARE`."""
    shares = _never_rising(counts, met)
    missed = shares < SHARE - 1e-12
    first_missed = np.where(missed.any(axis=1), missed.argmax(axis=1), len(rates))
    rows = np.arange(len(shares))
    above = np.clip(first_missed, min(1, len(rates) - 1), len(rates) - 1)
    below = np.maximum(above - 1, 0)
    drop = shares[rows, below] - shares[rows, above]
    part = (shares[rows, below] - SHARE) / np.where(drop > 0, drop, 1.0)
    crossing = rates[below] + part * (rates[above] - rates[below])
    crossing = np.where(first_missed == len(rates), rates[-1], crossing)
    return np.where(first_missed == 0, 0.0, crossing)


def _never_rising(counts: NDArray[np.int64], met: NDArray[np.int64]) -> NDArray[np.float64]:
    """The attainments nearest to the measured ones that do not rise with the rate: at each rate the
    least, over all ranges' starts at or before it, of the greatest mean of a range that ends at or
    behind it."""
    num_rates = len(counts)
    requests = np.concatenate([[0], np.cumsum(counts)])
    good = np.concatenate([np.zeros((len(met), 1)), np.cumsum(met, axis=1)], axis=1)
    fitted = np.full(met.shape, np.inf)
    for start in range(num_rates):
        means = (good[:, start + 1 :] - good[:, start, None]) / (
            requests[start + 1 :] - requests[start]
        )
        greatest = np.maximum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        fitted[:, start:] = np.minimum(fitted[:, start:], greatest)
    return fitted
