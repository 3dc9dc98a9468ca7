"""What is learned of a worker's steps, and what it is asked for."""

from __future__ import annotations

from math import isfinite
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.step_times import MAX_GROWTH, StepTimes

DURATIONS = st.floats(0.0, 100.0)
SIZES = st.integers(0, 100_000)


def times_of(*steps: tuple[int, float]) -> StepTimes:
    times = StepTimes()
    for num_tokens, seconds in steps:
        times.observe(num_tokens, seconds)
    return times


@pytest.mark.parametrize(
    ("base_s", "token_s", "sizes"),
    [
        (0.02, 1e-3, (0, 16, 24)),  # A CPU core that decodes.
        (0.01, 1.4e-3, (32, 160, 512)),  # One that prefills.
        (5e-3, 3e-5, (0, 128, 256)),  # A GPU.
        (0.18, 1e-3, (0, 8)),
    ],
)
def test_a_line_is_learned_through_noise(
    base_s: float, token_s: float, sizes: tuple[int, ...]
) -> None:
    random = Random(1)
    steps = [
        (size, (base_s + token_s * size) * random.uniform(0.9, 1.1))
        for size in random.choices(sizes, k=200)
    ]
    times = times_of(*steps)
    for size in sizes:
        assert times.seconds(size) == pytest.approx(base_s + token_s * size, rel=0.15)
    assert times.token_s == pytest.approx(token_s, rel=0.5)


def test_what_a_step_pays_for_having_any_is_told_from_what_each_costs() -> None:
    random = Random(1)
    steps = [
        (size, (1e-3 + (1.5e-3 + 2e-6 * size if size else 0)) * random.uniform(0.95, 1.05))
        for size in random.choices((0, 0, 16, 40, 128), k=200)
    ]
    times = times_of(*steps)
    assert times.base_s == pytest.approx(1e-3, rel=0.1)
    assert times.joint_s == pytest.approx(1.5e-3, rel=0.2)
    assert times.seconds(0) == times.base_s
    assert times.seconds(128) == pytest.approx(2.756e-3, rel=0.1)


def test_it_follows_a_batch_that_grows() -> None:
    times = times_of(*[(0, 0.02)] * 100, *[(0, 0.04)] * 100)
    assert times.base_s == pytest.approx(0.04, rel=0.1)


def test_while_nothing_is_known_a_step_has_the_first_size() -> None:
    assert StepTimes().tokens_within(0.1, at_first=256) == 256


def test_small_steps_alone_do_not_make_tokens_expensive() -> None:
    """A step of one token takes nearly as long as one of a block: were its time its token's, the
    next steps would be small, too, and it would never be found out."""
    times = times_of(*[(1, 0.017)] * 1000)
    assert times.tokens_within(0.25, at_first=256) == 256
    assert times.tokens_within(0.25, at_first=16) == 16


def test_small_steps_do_not_make_one_forget_what_large_ones_cost() -> None:
    large = [(n, 0.01 + 1e-3 * n) for n in (200, 256, 240, 128)]
    times = times_of(*large, *[(1, 0.011)] * 1000)
    assert times.tokens_within(0.25, at_first=256) == pytest.approx(240, rel=0.2)


def test_a_stall_changes_little() -> None:
    steps = [(n, 0.02 + 1e-3 * n) for n in (0, 16, 0, 0, 24, 16)] * 20
    times = times_of(*steps, (16, 10.0))
    assert times.seconds(16) == pytest.approx(0.036, rel=0.1)


def test_steps_grow_by_what_was_measured() -> None:
    times = times_of((100, 1e-3))
    assert times.tokens_within(10.0, at_first=16) == MAX_GROWTH * 100


@given(st.lists(st.tuples(SIZES, DURATIONS), max_size=50), DURATIONS, st.integers(1, 1000))
def test_whatever_was_measured_answers_are_sane(
    steps: list[tuple[int, float]], seconds: float, at_first: int
) -> None:
    times = times_of(*steps)
    assert times.base_s >= 0
    assert times.token_s >= 0
    assert isfinite(times.seconds(100_000))
    num_tokens = times.tokens_within(seconds, at_first)
    largest = max((size for size, _ in steps), default=0)
    assert 0 <= num_tokens <= max(at_first, MAX_GROWTH * largest)
    assert num_tokens == 0 or times.seconds(num_tokens) <= seconds * (1 + 1e-9)
