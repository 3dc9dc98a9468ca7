"""What requests there are, and when they come."""

from __future__ import annotations

import random
from itertools import islice, pairwise
from statistics import mean, median, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.bench.arrivals import gamma_arrivals, poisson_arrivals
from tandem.bench.lengths import Lengths, parse_lengths
from tandem.bench.mixes import MIXES, Conversations, mix_prompts
from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError

IDS = range(256)


def some(name: str, count: int = 400, seed: int = 0, factor: float = 1.0) -> list[Prompt]:
    return list(islice(mix_prompts(MIXES[name].scaled(factor), seed, IDS), count))


def test_arrivals_are_poisson() -> None:
    times = list(islice(poisson_arrivals(4.0, seed=1), 20_000))
    gaps = [after - before for before, after in pairwise(times)]
    assert min(gaps) >= 0
    assert mean(gaps) == pytest.approx(1 / 4, rel=0.03)
    # Of an exponential distribution the median is ln 2 of the mean.
    assert median(gaps) == pytest.approx(0.6931 / 4, rel=0.04)


@settings(deadline=None)
@given(rate=st.floats(0.01, 1000), seed=st.integers(0, 100))
def test_another_rate_stretches_the_same_arrivals(rate: float, seed: int) -> None:
    one = islice(poisson_arrivals(1.0, seed), 20)
    other = islice(poisson_arrivals(rate, seed), 20)
    assert [at / rate for at in one] == pytest.approx(list(other))


@pytest.mark.parametrize(("burstiness", "spread"), [(0.25, 2.0), (1.0, 1.0), (16.0, 0.25)])
def test_gamma_arrivals_have_their_rate_and_spread(burstiness: float, spread: float) -> None:
    times = list(islice(gamma_arrivals(4.0, burstiness, seed=1), 20_000))
    gaps = [after - before for before, after in pairwise(times)]
    assert mean(gaps) == pytest.approx(1 / 4, rel=0.05)
    # Of a gamma distribution this is 1 over the square root of its shape.
    assert pstdev(gaps) / mean(gaps) == pytest.approx(spread, rel=0.05)


def test_seeds_differ() -> None:
    assert next(poisson_arrivals(1.0, 0)) != next(poisson_arrivals(1.0, 1))


@settings(deadline=None)
@given(st.floats(1, 500), st.floats(0, 1.5), st.integers(1, 50), st.integers(51, 1000))
def test_lengths_keep_within_their_ends(middle: float, spread: float, low: int, high: int) -> None:
    rng = random.Random(0)
    lengths = Lengths(middle, spread, low, high)
    assert all(low <= lengths.draw(rng) <= high for _ in range(50))


def test_lengths_have_the_mean_that_was_published() -> None:
    rng = random.Random(0)
    lengths = Lengths.of_mean(338, 0.8)
    assert mean(lengths.draw(rng) for _ in range(20_000)) == pytest.approx(338, rel=0.03)


def test_lengths_without_spread_are_all_the_same() -> None:
    rng = random.Random(0)
    assert {Lengths(1024).draw(rng) for _ in range(9)} == {1024}


@pytest.mark.parametrize(("text", "ends"), [("512", (512, 512)), ("100:900", (100, 900))])
def test_lengths_are_read_and_drawn(text: str, ends: tuple[int, int]) -> None:
    lengths, rng = parse_lengths(text), random.Random(0)
    drawn = [lengths.draw(rng) for _ in range(500)]
    assert (lengths.low, lengths.high) == ends
    assert ends[0] <= min(drawn) <= max(drawn) <= ends[1]
    assert mean(drawn) == pytest.approx(mean(ends), rel=0.05)


@pytest.mark.parametrize("text", ["", "0", "9:5", "-3", "1:2:3", "ten", "1e3", "99999999"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_lengths(text)


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_is_the_same_for_the_same_seed(name: str) -> None:
    assert some(name, 30) == some(name, 30)
    assert some(name, 30) != some(name, 30, seed=1)
    assert {token for each in some(name, 30) for token in each.token_ids} <= set(IDS)


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_is_scaled_as_a_whole(name: str) -> None:
    whole, half = some(name, 600), some(name, 600, factor=0.5)
    for length in (lambda each: len(each.token_ids), lambda each: each.num_output):
        assert mean(map(length, half)) == pytest.approx(mean(map(length, whole)) / 2, rel=0.15)


@pytest.mark.parametrize("name", MIXES)
def test_a_variant_differs_in_nothing_but_its_tokens(name: str) -> None:
    one, other = (
        list(islice(mix_prompts(MIXES[name], 0, IDS, variant), 40)) for variant in (1.5, 3.0)
    )
    for length in (lambda each: len(each.token_ids), lambda each: each.num_output):
        assert list(map(length, one)) == list(map(length, other))
    assert {each.token_ids[:16] for each in one}.isdisjoint(each.token_ids[:16] for each in other)


def test_long_prompts_are_twenty_times_their_answers() -> None:
    prompts = some("long-prompts", 2000)
    ratio = mean(len(each.token_ids) for each in prompts) / mean(
        each.num_output for each in prompts
    )
    assert 17 <= ratio <= 22


def test_system_prompts_are_shared() -> None:
    prompts = some("shared-prefix", 200)
    assert len({each.token_ids[:1024] for each in prompts}) == 4
    assert len({each.token_ids for each in prompts}) == 200


def test_tenants_come_by_their_shares() -> None:
    short = sum(each.num_output < 40 for each in some("tenants", 2000))
    # Code is 20% and nearly always short; the others seldom are.
    assert 0.15 <= short / 2000 <= 0.3


def test_a_turn_goes_on_where_the_last_one_ended() -> None:
    mix = Conversations(1, Lengths(4), Lengths(10), Lengths(6))
    turns = list(islice(mix_prompts(mix, 0, IDS), 8))
    assert [len(each.token_ids) for each in turns] == [10, 26, 42, 58] * 2
    for before, after in pairwise(turns[:4]):
        assert after.token_ids[: len(before.token_ids)] == before.token_ids
    assert turns[4].token_ids[:10] != turns[0].token_ids


def test_several_conversations_are_under_way() -> None:
    openings = {each.token_ids[:4] for each in some("conversations", 100)}
    assert len(openings) >= 20
