"""An answer's tokens, however they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer_tokens import AnswerTokens
from gateway.tokens import Token
from tandem.core.errors import DataLoss
from tandem.core.sequence import FinishReason

FIRST = 3
LENGTH = FinishReason.LENGTH


@st.composite
def deliveries(draw: st.DrawFn) -> list[int]:
    """Places of an answer's tokens, in any order, each once and some again."""
    places = range(draw(st.integers(1, 6)))
    again = draw(st.lists(st.sampled_from(places), max_size=6))
    return draw(st.permutations([*places, *again]))


@given(deliveries(), st.integers(0, 12))
def test_each_is_due_once_and_in_order_and_the_end_with_the_last(
    places: list[int], num_before_scores: int
) -> None:
    answer = AnswerTokens(FIRST, awaits_scores=True)
    last = max(places)
    due: list[Token] = []
    for number, place in enumerate(places):
        answer.awaits_scores = number < num_before_scores
        token = Token(FIRST + place, 50 + place)
        tokens, reason = answer.accept(token, LENGTH if place == last else None)
        due += tokens
        assert not (due and answer.awaits_scores)
        assert (reason is LENGTH) is (len(due) == last + 1)
        if reason:
            break
    answer.awaits_scores = False
    if len(due) <= last:
        due += answer.accept(Token(FIRST + last, 50 + last), LENGTH)[0]
    assert due == [Token(FIRST + place, 50 + place) for place in range(last + 1)]
    assert answer.token_ids == [each.token_id for each in due]


@pytest.mark.parametrize("position", [FIRST, FIRST + 2])
def test_two_tokens_for_one_place_are_an_error(position: int) -> None:
    """Whether it is due already or came early."""
    answer = AnswerTokens(FIRST)
    answer.accept(Token(position, 50), None)
    with pytest.raises(DataLoss, match=f"token {position} was 50 and then 51"):
        answer.accept(Token(position, 51), None)


def test_another_attempt_goes_on_from_those_that_are_due() -> None:
    answer = AnswerTokens(FIRST)
    answer.accept(Token(FIRST, 50), None)
    answer.accept(Token(FIRST + 2, 52), LENGTH)
    answer.begin_again()
    for position in (FIRST + 1, FIRST + 2, FIRST + 3):
        token = Token(position, 60 + position)
        assert answer.accept(token, None) == ((token,), None)
