import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.noise import GOLDEN, MASK, mix, position_key, uniform

KEYS = st.integers(0, MASK)


def test_mix_gives_the_published_splitmix64_stream_of_seed_0():
    stream = [mix((n + 1) * GOLDEN & MASK) for n in range(3)]
    assert stream == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_position_keys_differ_in_each_argument():
    keys = {position_key(s, c, p) for s in range(20) for c in range(20) for p in range(20)}
    assert len(keys) == 20**3


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**31), st.integers(0, 2**31))
def test_position_keys_are_64_bits(seed, choice_index, position):
    assert 0 <= position_key(seed, choice_index, position) <= MASK


@given(KEYS, st.lists(st.integers(0, 2**31), min_size=1, max_size=20))
def test_a_draw_is_a_function_of_key_and_token_alone(key, token_ids):
    draws = uniform(key, np.array(token_ids)).tolist()
    assert draws == [uniform(key, np.array([token])).item() for token in token_ids]
    assert draws == [
        ((mix((key + (token + 1) * GOLDEN) & MASK) >> 12) + 0.5) * 2.0**-52 for token in token_ids
    ]
    assert all(0.0 < draw < 1.0 for draw in draws)


@given(KEYS)
def test_draws_are_spread_evenly(key):
    counts, _ = np.histogram(uniform(key, np.arange(20_000)), bins=10, range=(0, 1))
    assert abs(counts - 2000).max() < 350  # eight standard deviations


def test_draws_of_neighbouring_positions_are_not_correlated():
    draws = np.stack([uniform(position_key(1, 0, p), np.arange(10_000)) for p in range(8)])
    off_diagonal = np.corrcoef(draws) - np.eye(8)
    assert abs(off_diagonal).max() < 0.06  # six standard deviations


def test_shape_is_kept():
    assert uniform(1, np.arange(6).reshape(2, 3)).shape == (2, 3)
