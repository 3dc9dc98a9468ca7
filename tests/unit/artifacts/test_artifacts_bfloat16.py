import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.artifacts.bfloat16 import to_bfloat16


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F800000, 0x3F80),
        (0x3F808000, 0x3F80),  # a tie: down to even
        (0x3F818000, 0x3F82),  # a tie: up to even
        (0x3F808001, 0x3F81),
        (0x3F807FFF, 0x3F80),
        (0x80000000, 0x8000),  # -0
        (0x3FFFFFFF, 0x4000),  # the carry goes into the exponent
    ],
)
def test_rounds_to_nearest_even(bits: int, rounded: int) -> None:
    assert to_bfloat16(np.array([bits], np.uint32).view(np.float32))[0] == rounded


@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_is_never_farther_than_either_neighbour(value: float) -> None:
    def back(bits: int) -> float:
        return float(np.array([bits << 16], np.uint32).view(np.float32)[0])

    bits = int(to_bfloat16(np.array([value], np.float32))[0])
    error = abs(back(bits) - value)
    neighbours = [bits + 1] + ([bits - 1] if bits & 0x7FFF else [])
    assert all(error <= abs(back(each) - value) for each in neighbours)
