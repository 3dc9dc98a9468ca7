"""At most one controller at a time, and none with an outdated term."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tandem.core.errors import Fenced
from tandem.worker.lease import Controller, ControllerLease

LEASE_S = 2.0


def controller(
    name: str = "a", term: int = 1, lease_s: float = LEASE_S, stream: int = 0
) -> Controller:
    return Controller(name, term, lease_s, stream)


def test_the_first_controller_gets_it() -> None:
    lease = ControllerLease()
    assert lease.acquire(controller(), 10.0)
    assert lease.holder == controller()
    assert not lease.is_expired(11.9)
    assert lease.is_expired(12.0)


def test_the_same_term_takes_up_what_stands() -> None:
    lease = ControllerLease()
    lease.acquire(controller(), 0.0)
    assert not lease.acquire(controller(), 1.0)
    assert not lease.is_expired(2.9)


def test_an_older_stream_of_the_same_term_is_late() -> None:
    lease = ControllerLease()
    lease.acquire(controller(stream=1), 0.0)
    lease.acquire(controller(stream=3), 0.5)
    with pytest.raises(Fenced, match="stream 2 of this term is older"):
        lease.acquire(controller(stream=2), 1.0)
    assert lease.holder == controller(stream=3)
    assert lease.is_expired(2.5)
    assert not lease.acquire(controller(stream=4), 1.0)
    assert lease.acquire(controller(term=2, stream=1), 1.0)


def test_a_newer_term_starts_afresh() -> None:
    lease = ControllerLease()
    lease.acquire(controller(), 0.0)
    assert lease.acquire(controller(term=2), 1.0)


def test_another_is_refused_while_the_lease_lives_and_told_how_long() -> None:
    lease = ControllerLease()
    lease.acquire(controller(), 0.0)
    with pytest.raises(Fenced) as refusal:
        lease.acquire(controller("b", 9), 0.5)
    assert refusal.value.retry_after_s == 1.5
    lease.renew(1.0)
    with pytest.raises(Fenced):
        lease.acquire(controller("b", 9), 2.9)
    assert lease.holder == controller()
    assert lease.acquire(controller("b", 9), 3.0)
    assert lease.holder == controller("b", 9)


def test_an_older_term_is_never_obeyed_again() -> None:
    lease = ControllerLease()
    lease.acquire(controller(term=5), 0.0)
    lease.release()
    for term, why in ((4, "term 4 is over, the newest was 5"), (5, "the lease of term 5 is over")):
        for name in ("a", "b"):
            with pytest.raises(Fenced, match=why):
                lease.acquire(controller(name, term), 1.0)
    assert lease.acquire(controller(term=6), 1.0)


def test_another_does_not_take_up_what_one_of_the_same_term_left() -> None:
    """Even if nobody has noticed yet that the lease is over."""
    lease = ControllerLease()
    lease.acquire(controller("a", 5), 0.0)
    with pytest.raises(Fenced):
        lease.acquire(controller("b", 5), 99.0)
    assert lease.holder == controller("a", 5)


def test_a_released_lease_does_not_expire_and_is_not_renewed() -> None:
    lease = ControllerLease()
    lease.acquire(controller(), 0.0)
    lease.release()
    lease.renew(5.0)
    assert not lease.is_expired(99.0)
    assert lease.acquire(controller("b", 2), 0.1)


class LeaseMachine(RuleBasedStateMachine):
    """Against a model: who was let in last, and the newest term."""

    @initialize()
    def start(self) -> None:
        self.lease = ControllerLease()
        self.now = 0.0
        self.holder: Controller | None = None
        self.expires_at = 0.0
        self.newest = -1

    @rule(seconds=st.sampled_from((0.0, 0.5, 1.0, 2.0, 5.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        name=st.sampled_from("ab"),
        term=st.integers(0, 5),
        lease_s=st.sampled_from((1.0, 2.0)),
    )
    def acquire(self, name: str, term: int, lease_s: float) -> None:
        asks = Controller(name, term, lease_s)
        held_by_another = (
            self.holder and self.holder.controller_id != name and self.now < self.expires_at
        )
        resumes = (
            self.holder is not None
            and self.holder.controller_id == name
            and self.holder.term == term
        )
        try:
            fresh = self.lease.acquire(asks, self.now)
        except Fenced:
            assert held_by_another or (term <= self.newest and not resumes)
            return
        assert not held_by_another
        assert fresh is not resumes
        assert term > self.newest or resumes
        self.holder, self.newest, self.expires_at = asks, term, self.now + lease_s

    @rule()
    def renew(self) -> None:
        self.lease.renew(self.now)
        if self.holder:
            self.expires_at = self.now + self.holder.lease_s

    @rule()
    def release(self) -> None:
        self.lease.release()
        self.holder = None

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.lease.holder == self.holder
        expired = self.holder is not None and self.now >= self.expires_at
        assert self.lease.is_expired(self.now) is expired


TestLeaseMachine = LeaseMachine.TestCase
