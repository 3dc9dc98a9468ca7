"""What the listener is told of a worker, and how often."""

from __future__ import annotations

import pytest
from fake_workers import fake_worker
from structlog.testing import capture_logs

from gateway import standing
from gateway.liveness import LEASE_S, MAX_TURN_S, SUSPECT_S
from gateway.standing import Standing
from tandem.core.errors import Fenced, Mismatch, TandemError, Unavailable
from tandem.core.worker import WorkerInfo

INFO = fake_worker()
BROKEN = Unavailable("reset by peer")


class Hearing:
    """A listener, and the end of a stream, that note what they hear."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.has_room = True
        self.standing = Standing("host:1", self, lambda: self.events.append("hang up"))

    def admits(self, info: WorkerInfo) -> None:
        if not self.has_room:
            raise Mismatch("another model")

    def joined(self, info: WorkerInfo, address: str) -> None:
        self.events.append("joined")

    def lost(self, info: WorkerInfo, error: TandemError) -> None:
        self.events.append("lost")

    def left(self, info: WorkerInfo) -> None:
        self.events.append("left")

    def suspected(self, info: WorkerInfo) -> None:
        self.events.append("suspected")

    def trusted(self, info: WorkerInfo) -> None:
        self.events.append("trusted")

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / MAX_TURN_S)):
            self.standing.wait(MAX_TURN_S)

    def taken(self) -> list[str]:
        events, self.events = self.events, []
        return events


@pytest.fixture
def hearing() -> Hearing:
    made = Hearing()
    made.standing.join(INFO)
    assert made.taken() == ["joined"]
    return made


def test_silence_is_told_once_and_then_that_it_is_lost(hearing: Hearing) -> None:
    hearing.wait(SUSPECT_S)
    assert hearing.taken() == ["hang up", "suspected"]
    hearing.wait(LEASE_S - SUSPECT_S - MAX_TURN_S)
    assert set(hearing.taken()) == {"hang up"}
    hearing.wait(MAX_TURN_S)
    assert hearing.taken() == ["hang up", "lost"]
    hearing.wait(LEASE_S)
    assert hearing.taken() == []
    assert hearing.standing.info is None
    # If it is back, that silence is no longer its own.
    hearing.standing.join(INFO)
    hearing.wait(MAX_TURN_S)
    assert hearing.taken() == ["joined"]


def test_who_is_heard_of_again_is_trusted_again(hearing: Hearing) -> None:
    for _ in range(2):
        hearing.standing.broken(BROKEN)
        assert hearing.taken() == ["suspected"]
        hearing.standing.broken(BROKEN)
        assert hearing.taken() == []
        hearing.standing.applied(0)
        assert hearing.taken() == ["trusted"]


def test_commands_that_it_missed_are_applied_before_it_is_trusted(hearing: Hearing) -> None:
    commands = hearing.standing.commands
    commands.add("first")
    commands.take()
    hearing.standing.broken(BROKEN)
    commands.resume()
    hearing.standing.applied(0)
    assert hearing.taken() == ["suspected"]
    hearing.standing.applied(1)
    assert hearing.taken() == ["trusted"]


@pytest.fixture
def catching_up(hearing: Hearing) -> Hearing:
    """Its stream is back, and what it missed is on its way."""
    hearing.standing.commands.add("large")
    hearing.standing.commands.take()
    hearing.standing.broken(BROKEN)
    hearing.standing.commands.resume()
    hearing.standing.applied(0)
    assert hearing.taken() == ["suspected"]
    return hearing


def test_who_is_heard_is_not_lost_however_long_it_catches_up(catching_up: Hearing) -> None:
    for _ in range(4):
        catching_up.wait(LEASE_S / 4)
        catching_up.standing.applied(0)
    assert catching_up.taken() == []
    catching_up.standing.applied(1)
    assert catching_up.taken() == ["trusted"]


def test_a_stream_that_falls_silent_again_before_it_has_caught_up_is_hung_up(
    catching_up: Hearing,
) -> None:
    catching_up.wait(SUSPECT_S - MAX_TURN_S)
    assert catching_up.taken() == []
    catching_up.wait(MAX_TURN_S)
    assert catching_up.taken() == ["hang up"]


def test_a_stream_that_always_breaks_before_it_has_caught_up_is_given_up(
    catching_up: Hearing,
) -> None:
    standing = catching_up.standing
    for _ in range(round(LEASE_S / MAX_TURN_S)):
        assert catching_up.taken() == []
        standing.commands.resume()
        standing.applied(0)
        catching_up.wait(MAX_TURN_S)
        standing.applied(0)
        standing.broken(BROKEN)
    assert catching_up.taken() == ["hang up", "lost"]


def test_a_lease_that_is_over_is_a_loss_and_its_commands_are_nobodys(hearing: Hearing) -> None:
    hearing.standing.commands.add("for it")
    hearing.standing.broken(Fenced("another term"))
    assert hearing.taken() == ["hang up", "lost"]
    assert not hearing.standing.commands.has_due


def test_who_was_let_go_leaves_and_is_not_lost(hearing: Hearing) -> None:
    hearing.standing.is_leaving = True
    hearing.standing.broken(BROKEN)
    assert hearing.taken() == ["left"]
    hearing.standing.broken(BROKEN)
    assert hearing.taken() == []
    hearing.standing.join(INFO)
    hearing.standing.broken(BROKEN)
    assert hearing.taken() == ["joined", "suspected"]


def test_who_does_not_fit_has_not_joined() -> None:
    hearing = Hearing()
    hearing.has_room = False
    with pytest.raises(Mismatch):
        hearing.standing.join(INFO)
    assert (hearing.standing.info, hearing.taken()) == (None, [])


def test_why_there_is_no_worker_is_said_once_for_each_reason() -> None:
    hearing = Hearing()
    with capture_logs() as logs:
        for error in (BROKEN, BROKEN, Unavailable("no route"), BROKEN):
            hearing.standing.broken(error)
    assert [each["why"] for each in logs] == ["reset by peer", "no route", "reset by peer"]


def test_reasons_that_alternate_are_not_said_for_ever() -> None:
    """But anew once a worker has joined."""
    hearing = Hearing()
    with capture_logs() as logs:
        for _ in range(20):
            hearing.standing.broken(BROKEN)
            hearing.standing.broken(Unavailable("closed"))
        hearing.standing.join(INFO)
        hearing.standing.lose(BROKEN)
        hearing.standing.broken(BROKEN)
    yet = [each["why"] for each in logs if each["event"] == "no worker yet"]
    assert yet == ["reset by peer", "closed"] * standing.MAX_TOLD + ["reset by peer"]


def test_that_another_gateway_keeps_it_is_said_once_and_not_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = (10.0, 10.0 + LEASE_S, 11.0 + standing.HELD_S, 99.0)
    monkeypatch.setattr(standing, "monotonic", iter(times).__next__)
    hearing = Hearing()
    with capture_logs() as logs:
        for _ in times:
            hearing.standing.broken(Fenced("held"))
    assert [each["log_level"] for each in logs] == ["warning", "error"]
