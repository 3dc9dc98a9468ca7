"""Percentiles of counted times."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.bench.distribution import Distribution

TIMES_MS = st.lists(st.integers(0, 50_000), min_size=1, max_size=300)


def of_ms(*times: float) -> Distribution:
    return Distribution.of(each / 1000 for each in times)


def test_percentiles_are_in_milliseconds() -> None:
    hundred = of_ms(*range(1, 101))
    assert hundred.percentile_ms(50) == 50.5
    assert hundred.percentile_ms(99) == 99
    assert hundred.percentile_ms(100) == hundred.max_ms() == 100


def test_one_stall_in_a_thousand_is_seen_by_max_and_not_by_p999() -> None:
    times = of_ms(*[20.0] * 999, 500.0)
    assert (times.percentile_ms(99.9), times.max_ms()) == (20.5, 500)
    more = of_ms(*[20.0] * 998, 500.0, 500.0)
    assert more.percentile_ms(99.9) == 500


def test_without_times_there_is_nothing_to_tell() -> None:
    assert of_ms().percentile_ms(50) is None
    assert of_ms().max_ms() is None
    assert len(of_ms()) == of_ms().num_over_ms(0) == 0


def test_stalls_are_longer_than_the_bound() -> None:
    assert of_ms(79, 80, 80.1, 81, 200).num_over_ms(80) == 3


@settings(deadline=None)
@given(TIMES_MS, st.sampled_from([0.1, 1, 25, 50, 90, 99, 99.9, 100]))
def test_percentiles_are_those_of_the_times_themselves(tenths: list[int], percent: float) -> None:
    times = Distribution.of(each / 10_000 for each in tenths)
    expected = np.percentile(tenths, percent) / 10
    assert times.percentile_ms(percent) == pytest.approx(expected, abs=0.051)


@settings(deadline=None)
@given(TIMES_MS, TIMES_MS)
def test_merged_is_all_together_also_by_way_of_json(one: list[int], other: list[int]) -> None:
    parts = [Distribution.of(each / 10_000 for each in times) for times in (one, other)]
    read = [Distribution.from_json(json.loads(json.dumps(each.to_json()))) for each in parts]
    whole = Distribution.of(each / 10_000 for each in one + other)
    assert Distribution.merged(read).to_json() == whole.to_json()
