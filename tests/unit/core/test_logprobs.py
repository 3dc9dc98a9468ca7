"""Log-probabilities in columns are those of each token."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from tandem.core.logprobs import LogprobColumns, TokenLogprobs


def columns(numbers: range, num_top: int) -> LogprobColumns:
    """Of tokens that are told apart by these numbers."""
    tops = [10 * number + place for number in numbers for place in range(num_top)]
    return LogprobColumns(array("f", numbers), array("I", tops), array("f", tops))


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_each_token_has_its_own(num_first: int, num_more: int, num_top: int) -> None:
    numbers = range(num_first + num_more)
    told = columns(numbers[:num_first], num_top)
    told.extend(columns(numbers[num_first:], num_top))
    assert told.num_top == (num_top if numbers else 0)
    assert told.num_in_all == len(numbers) * (1 + num_top)
    for number in numbers:
        tops = [10 * number + place for place in range(num_top)]
        assert told[number] == TokenLogprobs.of(number, tops, tops)
        assert list(told[number].top) == list(zip(tops, tops, strict=True))
