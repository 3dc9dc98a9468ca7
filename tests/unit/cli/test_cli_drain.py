"""What `tandem drain` waits for, and what it says then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tandem.cli import workers
from tandem.cli.flags import GatewayFlags
from tandem.cli.workers import Admin, drain_worker
from tandem.v1 import admin_pb2

SERVING = admin_pb2.WORKER_STATE_SERVING
SUSPECT = admin_pb2.WORKER_STATE_SUSPECT
DRAINING = admin_pb2.WORKER_STATE_DRAINING


def status(state: admin_pb2.WorkerState.ValueType, num_sequences: int) -> admin_pb2.WorkerStatus:
    return admin_pb2.WorkerStatus(worker_id="d", state=state, num_sequences=num_sequences)


@dataclass
class Stub:
    """A gateway that says of its workers, one time after the other, what a test wants."""

    seen: list[list[admin_pb2.WorkerStatus]]
    drained: admin_pb2.WorkerStatus = field(default_factory=lambda: status(DRAINING, 3))

    def DrainWorker(self, request: object, **_: object) -> admin_pb2.DrainWorkerResponse:
        return admin_pb2.DrainWorkerResponse(worker=self.drained)

    def ListWorkers(self, request: object, **_: object) -> admin_pb2.ListWorkersResponse:
        return admin_pb2.ListWorkersResponse(workers=self.seen.pop(0))


def reach(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have commands reach it."""

    @contextmanager
    def reached(_: GatewayFlags) -> Iterator[Admin]:
        yield Admin(stub, ())

    monkeypatch.setattr(workers, "reached_admin", reached)


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        pytest.param([[status(DRAINING, 1)], [status(DRAINING, 0)]], "holds nothing", id="empty"),
        pytest.param([[status(SUSPECT, 1)], []], "d is gone", id="gone"),
        pytest.param([[status(SERVING, 2)]], "serves again", id="started anew"),
    ],
)
def test_it_waits_until_there_is_nothing_to_wait_for(
    seen: list[list[admin_pb2.WorkerStatus]],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stub = Stub([*seen])
    reach(stub, monkeypatch)
    monkeypatch.setattr(workers, "POLL_S", 0.0)
    drain_worker(GatewayFlags(), "d", 1.0, wait=True)
    assert said in capsys.readouterr().out
    assert not stub.seen


@pytest.mark.parametrize("needed", [True, False])
def test_it_says_when_new_requests_are_refused_meanwhile(
    needed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drained = admin_pb2.WorkerStatus(worker_id="d", role=2, state=DRAINING, needed=needed)
    reach(Stub([], drained), monkeypatch)
    drain_worker(GatewayFlags(), "d", 1.0, wait=False)
    warning = "no other decode worker serves: new requests are refused until one does"
    assert (warning in capsys.readouterr().out.splitlines()) is needed


@pytest.mark.parametrize("name", ["[/red]", "decode-3f9c1b2d4e5a-50052.some.name.of.a.host"])
def test_a_workers_name_is_no_markup_and_whole(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named = admin_pb2.WorkerStatus(
        worker_id=name,
        role=1,
        state=SERVING,
        address="172.18.0.5:50052",
        device="cpu:0-63",
        version="0.9",
    )
    reach(Stub([[named]]), monkeypatch)
    workers.show_workers(GatewayFlags())
    _, line, gateway = capsys.readouterr().out.splitlines()
    assert line.split()[:5] == [name, "prefill", "serving", "172.18.0.5:50052", "cpu:0-63"]
    # It is of another build than the gateway.
    assert line.split()[-1] == "0.9" and gateway == "the gateway is -"
