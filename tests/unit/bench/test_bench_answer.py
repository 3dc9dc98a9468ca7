"""When tokens came, and how far apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.bench.answer import Answer
from tandem.bench.workload import Prompt

ALWAYS = (-1e9, 1e9)


def answer(*arrivals: tuple[float, int], num_output: int = 4) -> Answer:
    made = Answer(Prompt((1, 2), num_output), sent_s=10.0)
    for now, num_tokens in arrivals:
        made.note(now, num_tokens)
    return made


def test_times_of_an_even_stream() -> None:
    even = answer((11, 1), (12, 2), (13, 3), (14, 4))
    assert even.ttft_s() == 1
    assert even.tpot_s() == 1
    assert even.itl_s() == [1, 1, 1]
    assert even.problem() == ""


def test_tokens_that_come_together_are_waited_for_once() -> None:
    bunched = answer((11, 1), (14, 4))
    assert bunched.itl_s() == [3]
    assert bunched.tpot_s() == 1


def test_before_the_first_chunk_there_is_no_latency_between_tokens() -> None:
    assert answer((11, 3), (12, 4)).itl_s() == [1]
    assert answer((11, 4)).itl_s() == answer().itl_s() == []


def test_chunks_without_a_new_token_count_for_nothing() -> None:
    assert answer((11, 1), (12, 1), (13, 2), (14, 2), (15, 4)).arrivals == [
        (11, 1),
        (13, 2),
        (15, 4),
    ]


@pytest.mark.parametrize("num_tokens", [3, 5])
def test_another_number_of_tokens_than_asked_for_is_a_problem(num_tokens: int) -> None:
    assert "4 were asked for" in answer((11, num_tokens)).problem()


def test_no_tokens_at_all_is_a_problem() -> None:
    assert answer().problem()


def test_only_what_ended_in_the_window_counts() -> None:
    stream = answer((11, 1), (12, 2), (13, 4))
    assert stream.itl_s(11.5, 12.5) == [1]
    assert stream.tokens_between(11.5, 12.5) == 1
    assert stream.tokens_between(12.5, 20) == 2
    assert stream.itl_s(12.5, 20) == [1]


def test_an_answer_may_be_shorter_where_that_is_said() -> None:
    short = answer((11, 1), (12, 2))
    assert short.problem()
    short.may_be_shorter = True
    assert short.problem() == ""
    assert answer(num_output=1).problem()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 4)), min_size=1, max_size=30))
def test_latencies_are_one_fewer_than_chunks_and_add_up(steps: list[tuple[float, int]]) -> None:
    made, now, total = answer(num_output=1), 11.0, 0
    for wait, count in steps:
        now, total = now + wait, total + count
        made.note(now, total)
    assert len(made.itl_s()) == max(0, len(made.arrivals) - 1)
    assert made.tokens_between(*ALWAYS) == total
    if total:
        assert sum(made.itl_s()) == pytest.approx(made.arrivals[-1][0] - made.arrivals[0][0])
