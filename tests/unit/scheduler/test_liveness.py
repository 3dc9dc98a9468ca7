from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.liveness import LEASE_S, MAX_TURN_S, SUSPECT_S, Liveness

TURNS = st.lists(st.floats(0, 100), max_size=40)


@given(TURNS)
def test_silence_is_suspect_after_a_while_and_lost_with_its_lease(turns):
    liveness = Liveness()
    silent_s = 0.0
    for elapsed_s in turns:
        liveness.wait(elapsed_s)
        silent_s += min(elapsed_s, MAX_TURN_S)
        assert liveness.is_suspect is (silent_s >= SUSPECT_S)
        assert liveness.is_lost is (silent_s >= LEASE_S)


def test_a_process_that_stood_still_blames_nobody():
    liveness = Liveness()
    liveness.wait(3600.0)
    assert not liveness.is_suspect


@given(TURNS)
def test_one_that_is_heard_of_is_trusted(turns):
    liveness = Liveness()
    for elapsed_s in turns:
        liveness.wait(elapsed_s)
    liveness.break_stream()
    assert liveness.is_suspect
    liveness.trust()
    assert not liveness.is_suspect
    assert not liveness.is_lost


def test_a_broken_stream_is_suspect_at_once_and_lost_no_sooner_than_silence():
    liveness = Liveness()
    liveness.break_stream()
    assert liveness.is_suspect
    assert not liveness.is_lost
    for _ in range(int(LEASE_S / MAX_TURN_S) - 1):
        liveness.wait(MAX_TURN_S)
    assert not liveness.is_lost
    liveness.wait(MAX_TURN_S)
    assert liveness.is_lost


def test_a_process_whose_turns_take_long_may_need_several_to_hear():
    liveness = Liveness()
    for _ in range(5):
        liveness.wait(2.0)
    assert not liveness.is_suspect
