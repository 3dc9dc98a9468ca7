"""`tandem workers`, `tandem drain` and `tandem undrain`: who serves, and who shall not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from rich.console import Console

from tandem.cli.flags import GatewayFlags
from tandem.cli.reaching import reached
from tandem.cli.tables import print_rows, table_console
from tandem.client.connection import CallMetadata
from tandem.core.worker import WorkerRole
from tandem.v1 import admin_pb2, admin_pb2_grpc

TIMEOUT_S = 10.0
POLL_S = 0.2
NUMBERS = ("sequences", "KV blocks", "pid")
LESS_NEEDED = ("pid", "device", "version")
# Of a build that does not say.
UNKNOWN = "-"

ResponseT = TypeVar("ResponseT")


@dataclass(frozen=True)
class Admin:
    """The gateway's `AdminService`."""

    stub: admin_pb2_grpc.AdminServiceStub
    metadata: CallMetadata

    def listed(self) -> admin_pb2.ListWorkersResponse:
        """The gateway's build, and all workers that have joined."""
        return self._call(self.stub.ListWorkers, admin_pb2.ListWorkersRequest())

    def worker(self, worker_id: str) -> admin_pb2.WorkerStatus | None:
        """None if it is gone."""
        named = (worker for worker in self.listed().workers if worker.worker_id == worker_id)
        return next(named, None)

    def drain(self, worker_id: str, timeout_s: float) -> admin_pb2.WorkerStatus:
        """Take a worker out of service."""
        timeout_ms = round(timeout_s * 1000)
        request = admin_pb2.DrainWorkerRequest(worker_id=worker_id, timeout_ms=timeout_ms)
        return self._call(self.stub.DrainWorker, request).worker

    def undrain(self, worker_id: str) -> admin_pb2.WorkerStatus:
        """Put a worker back into service."""
        request = admin_pb2.UndrainWorkerRequest(worker_id=worker_id)
        return self._call(self.stub.UndrainWorker, request).worker

    def _call(self, method: Callable[..., ResponseT], request: object) -> ResponseT:
        return method(request, timeout=TIMEOUT_S, metadata=self.metadata)


def show_workers(gateway: GatewayFlags) -> None:
    """Print the gateway's workers. Raises `TandemError`."""
    with reached_admin(gateway) as admin:
        listed = admin.listed()
    workers = listed.workers
    console = table_console(markup=False)
    if not workers:
        console.print("no worker has joined")
        return
    rows = [_row(worker) for worker in workers]
    print_rows(console, rows, numbers=NUMBERS, less_needed=LESS_NEEDED)
    if {listed.gateway_version} != {worker.version for worker in workers}:
        console.print(f"the gateway is {listed.gateway_version or UNKNOWN}")


def drain_worker(gateway: GatewayFlags, worker_id: str, timeout_s: float, *, wait: bool) -> None:
    """Take a worker out of service and, with `wait`, return when it holds nothing any more, is
    gone, or serves again. Raises `TandemError`, `NotFound` among them."""
    console = Console(highlight=False, markup=False)
    with reached_admin(gateway) as admin:
        drained = admin.drain(worker_id, timeout_s)
        console.print(_line(drained))
        if drained.needed:
            role = _role_name(drained)
            console.print(f"no other {role} worker serves: new requests are refused until one does")
        if not wait:
            return
        with console.status("waiting until it holds nothing; Ctrl-C leaves it to itself"):
            last = _wait_for(admin, drained)
    console.print(_outcome(worker_id, last))


def undrain_worker(gateway: GatewayFlags, worker_id: str) -> None:
    """Put a worker back into service. Raises `TandemError`, `NotFound` among them."""
    with reached_admin(gateway) as admin:
        worker = admin.undrain(worker_id)
    Console(highlight=False, markup=False).print(_line(worker))


def state_name(worker: admin_pb2.WorkerStatus) -> str:
    """`serving`, `suspect`, `draining`, `drained` or `stopping`."""
    name = admin_pb2.WorkerState.Name(worker.state)
    return name.removeprefix("WORKER_STATE_").lower()


def _row(worker: admin_pb2.WorkerStatus) -> dict[str, str]:
    return {
        "worker": worker.worker_id,
        "role": _role_name(worker),
        "state": state_name(worker),
        "address": worker.address,
        "device": worker.device,
        "sequences": str(worker.num_sequences),
        "KV blocks": f"{worker.num_used_blocks}/{worker.num_blocks}",
        "pid": str(worker.pid or UNKNOWN),
        "version": worker.version or UNKNOWN,
    }


def _role_name(worker: admin_pb2.WorkerStatus) -> str:
    return WorkerRole(worker.role).name.lower()


def _line(worker: admin_pb2.WorkerStatus) -> str:
    return f"{worker.worker_id} is {state_name(worker)}, and holds {worker.num_sequences} sequences"


def _wait_for(admin: Admin, drained: admin_pb2.WorkerStatus) -> admin_pb2.WorkerStatus | None:
    """What became of a drained worker: None if it is gone."""
    worker: admin_pb2.WorkerStatus | None = drained
    while worker and worker.num_sequences and not _serves(worker):
        time.sleep(POLL_S)
        worker = admin.worker(drained.worker_id)
    return worker


def _outcome(worker_id: str, worker: admin_pb2.WorkerStatus | None) -> str:
    if worker is None:
        return f"{worker_id} is gone, and holds nothing any more"
    if _serves(worker):
        return f"{worker_id} serves again: it was put back, or started anew"
    return f"{worker_id} holds nothing any more; `tandem undrain {worker_id}` ends that"


def _serves(worker: admin_pb2.WorkerStatus) -> bool:
    return worker.state == admin_pb2.WORKER_STATE_SERVING


@contextmanager
def reached_admin(gateway: GatewayFlags) -> Iterator[Admin]:
    """Who tells the gateway what to do with its workers, for the time of the block."""
    with reached(gateway) as (channel, metadata):
        yield Admin(admin_pb2_grpc.AdminServiceStub(channel), metadata)
