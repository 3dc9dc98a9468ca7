"""The search for a goodput, and what is made of the rates that it tried."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.bench.goodput import (
    SHARE,
    Interval,
    Level,
    best_ratio_interval,
    goodput,
    goodput_interval,
    interval,
    ratio_interval,
)
from tandem.bench.rate_search import LADDER, MAX_DESCENTS, MAX_RATES, RateSearch


def tried(search: RateSearch, claim: float, loosest: float) -> list[float]:
    """The rates of a search on an arm that holds the claim up to one rate, and the loosest
    objective up to another."""
    rates: list[float] = []
    while (rate := search.next_rate()) is not None:
        rates.append(rate)
        search.record(rate, claim_holds=rate <= claim, loosest_holds=rate <= loosest)
    return rates


@settings(deadline=None)
@given(
    start=st.floats(0.1, 10),
    claim=st.floats(0.5, 4),
    more=st.floats(1, 2),
)
def test_a_search_brackets_what_it_looks_for(start: float, claim: float, more: float) -> None:
    search = RateSearch(start, tolerance=1.2)
    rates = tried(search, start * claim, start * claim * more)
    low, high = search.bracket()
    assert low is not None
    assert high is not None
    assert low <= start * claim < high <= 1.2 * low
    assert max(rates) > start * claim * more
    assert len(set(rates)) == len(rates)


@settings(deadline=None)
@given(claim=st.floats(0.01, 100), loosest=st.floats(0.01, 100))
def test_a_search_ends(claim: float, loosest: float) -> None:
    assert len(tried(RateSearch(1.0), claim, max(claim, loosest))) <= MAX_RATES


def test_an_arm_that_never_holds_is_tried_down_to_a_floor() -> None:
    rates = tried(RateSearch(8.0), 0, 0)
    assert len(rates) == MAX_DESCENTS + 1
    assert min(rates) == pytest.approx(8 / LADDER**MAX_DESCENTS)


def test_an_arm_that_holds_only_the_loosest_is_followed_up() -> None:
    rates = tried(RateSearch(1.0), 0, 3)
    assert max(rates) > 3


def test_a_search_that_begins_far_below_takes_several_rungs_at_once() -> None:
    rates = tried(RateSearch(1.0), claim=200, loosest=200)
    assert rates[:5] == pytest.approx([1, LADDER, LADDER**3, LADDER**6, LADDER**9])
    low, high = max(each for each in rates if each <= 200), min(e for e in rates if e > 200)
    assert high / low < LADDER**3


def test_past_the_claim_it_climbs_one_rung_after_the_other() -> None:
    rates = tried(RateSearch(1.0), claim=2, loosest=200)
    assert rates[:5] == pytest.approx([1, LADDER, LADDER**3, LADDER**4, LADDER**5])


def test_a_miss_below_a_hit_is_the_bracket() -> None:
    """Attainment is measured: it may rise again by luck."""
    search = RateSearch(1.0)
    for rate, holds in ((1.0, True), (LADDER, False), (LADDER**2, True)):
        search.record(rate, claim_holds=holds, loosest_holds=False)
    assert search.bracket() == (1.0, LADDER)
    assert search.next_rate() == pytest.approx(math.sqrt(LADDER))


def levels(*shares: float, num_requests: int = 100) -> list[Level]:
    return [
        Level(float(rate), num_requests, round(share * num_requests))
        for rate, share in enumerate(shares, start=1)
    ]


def test_goodput_is_where_the_attainment_crosses() -> None:
    assert goodput(levels(1.0, 0.95, 0.85)) == pytest.approx(2.5)
    assert goodput(levels(1.0, 0.9, 0.0)) == pytest.approx(2)
    assert goodput(list(reversed(levels(1.0, 0.8)))) == pytest.approx(1.5)


def test_rates_at_which_the_attainment_rises_count_as_one() -> None:
    # 80 and 98 of 100: 89% at both, and 90% after 10 of the 11 points from 1/s to 2/s.
    assert goodput(levels(1.0, 0.8, 0.98)) == pytest.approx(1 + 10 / 11)
    assert goodput(levels(1.0, 0.8, 1.0)) == 3
    # Few requests have little weight: 10 of 12 at the lowest rate are chance.
    few = Level(0.5, 12, 10)
    assert goodput([few, *levels(1.0, 0.8)]) == pytest.approx(goodput(levels(1.0, 0.8)), rel=0.1)


def test_goodput_at_the_ends() -> None:
    assert goodput(levels(0.89, 0.9)) == 0
    assert goodput(levels(1.0, 0.95)) == 2
    assert goodput(levels(1.0)) == 1
    assert goodput(levels(0.5)) == 0
    assert goodput([Level(1.0, 0, 0)]) == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_goodput_is_within_the_rates(met: list[int]) -> None:
    made = [Level(float(rate), 50, each) for rate, each in enumerate(met, start=1)]
    value = goodput(made)
    assert 0 <= value <= len(made)
    if value < len(made):
        assert any(level.attainment < SHARE for level in made)
    if value > 0:
        assert any(level.attainment >= SHARE for level in made if level.rate <= value + 1)
    fixed = goodput_interval(made)
    assert fixed.low <= fixed.high
    assert fixed.value == value
    assert fixed == goodput_interval(made)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=2, max_size=8), st.integers(0, 7))
def test_who_serves_more_has_no_less_goodput(met: list[int], number: int) -> None:
    number %= len(met)
    better = [min(50, each + 5 * (i == number)) for i, each in enumerate(met)]
    one, other = (
        goodput([Level(float(rate), 50, each) for rate, each in enumerate(served, start=1)])
        for served in (met, better)
    )
    assert other >= one - 1e-9


def test_more_requests_make_the_interval_narrow() -> None:
    few, many = (
        goodput_interval(levels(1.0, 0.95, 0.85, 0.5, num_requests=each)) for each in (20, 2000)
    )
    assert many.low < 2.5 < many.high
    assert many.high - many.low < (few.high - few.low) / 3


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = (1.0, 0.97, 0.83, 0.4)
    expected = goodput(levels(*truth, num_requests=1000))
    covered = 0
    for _ in range(200):
        met = rng.binomial(200, truth)
        drawn = [Level(float(i + 1), 200, int(each)) for i, each in enumerate(met)]
        fixed = goodput_interval(drawn)
        covered += fixed.low <= expected <= fixed.high
    assert covered >= 180


def test_the_interval_leaves_out_a_fortieth_at_either_end() -> None:
    fixed = interval(7.0, np.arange(1001.0))
    assert (fixed.value, fixed.low, fixed.high) == pytest.approx((7, 25, 975))


def test_a_ratio_is_infinite_where_resamples_of_the_others_have_none() -> None:
    """Also where those of the arm have none."""
    ratio = ratio_interval(levels(0.9, num_requests=20), [levels(0.9, num_requests=20)])
    assert ratio == Interval(1.0, 0.0, math.inf)


def test_a_ratio_is_to_the_best_of_the_others() -> None:
    ratio = ratio_interval(
        levels(1, 1, 1, 1, 0.0, num_requests=500),
        [levels(1, 0.0, num_requests=500), levels(1, 1, 0.0, num_requests=500)],
    )
    assert ratio is not None
    assert ratio.value == pytest.approx(4.1 / 2.1)
    assert ratio.low <= ratio.value <= ratio.high


@pytest.mark.parametrize(("num_arms", "num_others"), [(7, 1), (1, 7)])
def test_the_luckiest_of_many_is_not_better(num_arms: int, num_others: int) -> None:
    rng = np.random.default_rng(1)

    def drawn() -> list[Level]:
        shares = (0.99, 0.95, 0.85, 0.5)
        return [Level(i + 1.0, 100, int(rng.binomial(100, each))) for i, each in enumerate(shares)]

    wrong = 0
    for _ in range(60):
        ratio = best_ratio_interval(
            [drawn() for _ in range(num_arms)], [drawn() for _ in range(num_others)]
        )
        assert ratio is not None
        wrong += not ratio.low <= 1 <= ratio.high
    assert wrong <= 3


def test_between_two_arms_nothing_was_chosen() -> None:
    one, other = levels(1, 1, 0.5), levels(1, 0.8, 0.3)
    assert best_ratio_interval([one], [other]) == ratio_interval(one, [other])


def test_there_is_no_ratio_to_nothing() -> None:
    assert best_ratio_interval([levels(1.0)], [levels(0.0)]) is None
    assert best_ratio_interval([levels(1.0)], []) is None
    assert ratio_interval(levels(1.0), [levels(0.0)]) is None
    assert ratio_interval(levels(1.0), []) is None
