"""Quantiles of what came of late."""

from __future__ import annotations

from bisect import bisect_left
from math import ceil, inf

from hypothesis import given
from hypothesis import strategies as st

from gateway.page.recent import RecentTimes, quantile
from tandem.core.histogram import Histogram

BOUNDS = (0.01, 0.1, 1.0, 10.0)


@given(
    st.lists(st.floats(0.0, 20.0), min_size=1, max_size=50),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_it_lies_where_the_true_one_does(values: list[float], share: float) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.observe(value)
    bounds, counts = zip(*histogram.cumulative(), strict=True)
    found = quantile(bounds, counts, share)
    true = sorted(values)[max(0, ceil(share * len(values)) - 1)]
    bucket = bisect_left(BOUNDS, true)
    assert found is not None
    # What is beyond the last bound counts as that.
    low, high = ((0.0, *BOUNDS)[bucket], (*BOUNDS, BOUNDS[-1])[bucket])
    assert low <= found <= high


def test_half_of_a_bucket_is_its_middle() -> None:
    assert quantile((1.0, 3.0, inf), (0, 4, 4), 0.5) == 2.0
    assert quantile((1.0, inf), (0, 0), 0.5) is None


def test_what_came_before_is_forgotten_after_so_many_ticks() -> None:
    histogram = Histogram(BOUNDS)
    histogram.observe(5.0)
    recent = RecentTimes(histogram, num_ticks=2)
    assert recent.quantile(0.5) is None
    histogram.observe(0.05)
    recent.tick()
    first = recent.quantile(0.5)
    assert first is not None and 0.01 < first < 0.1
    recent.tick()
    assert recent.quantile(0.5) == first
    recent.tick()
    assert recent.quantile(0.5) is None
