"""What `tandem restart` takes for a worker's successor, and what it does not do."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tandem.cli import restart
from tandem.cli.flags import GatewayFlags
from tandem.cli.workers import Admin
from tandem.core.errors import ConfigError, NotFound, TandemError, Unavailable
from tandem.v1 import admin_pb2

SERVING, STOPPING = admin_pb2.WORKER_STATE_SERVING, admin_pb2.WORKER_STATE_STOPPING


def worker(
    epoch: int, state: admin_pb2.WorkerState.ValueType = SERVING, pid: int = 0
) -> admin_pb2.WorkerStatus:
    return admin_pb2.WorkerStatus(
        worker_id="d",
        role=2,
        address="127.0.0.1:9",
        state=state,
        worker_epoch=epoch,
        version="2",
        pid=pid,
    )


class Stub:
    """A gateway that has these workers, one look after the other, and the last from then on."""

    def __init__(self, *seen: list[admin_pb2.WorkerStatus]) -> None:
        self.seen = [*seen]

    def ListWorkers(self, request: object, **_: object) -> admin_pb2.ListWorkersResponse:
        now = self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]
        return admin_pb2.ListWorkersResponse(workers=now)


def run(
    monkeypatch: pytest.MonkeyPatch, *seen: list[admin_pb2.WorkerStatus], by: str | None = "true"
) -> None:
    @contextmanager
    def reached(_: GatewayFlags) -> Iterator[Admin]:
        yield Admin(Stub(*seen), ())  # type: ignore[arg-type]

    monkeypatch.setattr(restart, "reached_admin", reached)
    monkeypatch.setattr(restart, "POLL_S", 0.0)
    restart.restart_worker(GatewayFlags(), "d", by, 0.2)


def test_it_is_done_when_another_process_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = [worker(1)], [worker(1)], [worker(1, STOPPING)], [], [worker(2, STOPPING)]
    run(monkeypatch, *seen, [worker(2, pid=7)])
    assert capsys.readouterr().out == "d serves again: version 2, pid 7\n"


@pytest.mark.parametrize(
    ("seen", "by", "error"),
    [
        pytest.param([[worker(1)]], "true", Unavailable, id="it lives on"),
        pytest.param([[worker(1)], []], "true", Unavailable, id="nothing starts it again"),
        pytest.param([[]], "true", NotFound, id="it is not there"),
        pytest.param([[worker(1)], [worker(2)]], "false", ConfigError, id="the command fails"),
        pytest.param([[worker(1)], [worker(2)]], "no-such-command", ConfigError, id="no command"),
        pytest.param([[worker(1)], [worker(2)]], " ", ConfigError, id="no words"),
    ],
)
def test_what_went_wrong_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
    seen: list[list[admin_pb2.WorkerStatus]],
    by: str,
    error: type[TandemError],
) -> None:
    with pytest.raises(error):
        run(monkeypatch, *seen, by=by)


@pytest.mark.parametrize("pid", [0, os.getpid()], ids=["unknown", "another"])
def test_a_process_that_does_not_listen_where_the_worker_does_is_let_alone(
    monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    """The gateway's workers may be on other machines, whose processes have the same numbers."""
    sent: list[tuple[int, signal.Signals]] = []
    monkeypatch.setattr(os, "kill", lambda *sending: sent.append(sending))
    with pytest.raises(ConfigError, match="no process of this machine") as caught:
        run(monkeypatch, [worker(1, pid=pid)], [worker(2)], by=None)
    assert caught.value.param == "by" and not sent
