"""The one rule for percentiles."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.bench.percentiles import percentiles, quartiles, weighted_percentiles
from tandem.bench.report.stats import Stats

VALUES = st.lists(st.floats(0, 1e5), min_size=1, max_size=60)
PERCENTS = (0, 12.5, 50, 99, 100)


@given(VALUES)
def test_percentiles_are_numpys_as_other_tools_have_them(values: list[float]) -> None:
    assert percentiles(values, PERCENTS) == pytest.approx(np.percentile(values, PERCENTS))
    made = Stats.of(values)
    assert made
    expected = np.percentile(values, [50, 90, 95, 99, 99.9])
    assert [made.p50, made.p90, made.p95, made.p99, made.p99_9] == pytest.approx(expected, abs=1e-3)
    assert made.max == pytest.approx(max(values), abs=1e-3)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.integers(0, 4)), min_size=1, max_size=40))
def test_weights_are_repetitions(pairs: list[tuple[float, int]]) -> None:
    pairs.sort()
    values, weights = (np.array(each) for each in zip(*pairs, strict=True))
    made = weighted_percentiles(values, weights, PERCENTS)
    repeated = np.repeat(values, weights)
    if len(repeated):
        assert made == pytest.approx(np.percentile(repeated, PERCENTS))
    else:
        assert np.isnan(made).all()


def test_what_never_came_is_not_interpolated() -> None:
    values = [3.0, inf, 1.0, 2.0, inf]
    assert percentiles(values, (0, 50, 60, 75, 100)).tolist() == [1.0, 3.0, inf, inf, inf]
    assert np.isnan(percentiles([], (50,))).all()


def test_quartiles_are_the_first_the_median_and_the_third() -> None:
    assert quartiles([4.0, 1.0, 2.0, 3.0]) == (1.75, 2.5, 3.25)
