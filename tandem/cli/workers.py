"""`tandem workers`, `tandem drain` and `tandem undrain`: who serves, and who shall not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from rich.console import Console
from rich.table import Table

from tandem.cli.reaching import reaching_gateway
from tandem.client.connection import resolve_address, translated_errors
from tandem.core.errors import NotFound
from tandem.core.worker import WorkerRole
from tandem.v1 import admin_pb2, admin_pb2_grpc
from tandem.wire.channels import CHANNEL_OPTIONS

TIMEOUT_S = 10.0
POLL_S = 0.2


def show_workers(address: str | None) -> None:
    """Print the gateway's workers. Raises `TandemError`."""
    with _admin(address) as admin:
        workers = _list(admin)
    console = Console(highlight=False)
    if not workers:
        console.print("no worker has joined")
        return
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ("worker", "role", "state", "address", "device", "sequences", "KV blocks"):
        is_number = name in ("sequences", "KV blocks")
        table.add_column(name, justify="right" if is_number else "left")
    for worker in workers:
        table.add_row(
            worker.worker_id,
            WorkerRole(worker.role).name.lower(),
            state_name(worker),
            worker.address,
            worker.device,
            str(worker.num_sequences),
            f"{worker.num_used_blocks}/{worker.num_blocks}",
        )
    console.print(table)


def drain_worker(address: str | None, worker_id: str, timeout_s: float, *, wait: bool) -> None:
    """Take a worker out of service and, with `wait`, return when it holds nothing any more. Raises
    `TandemError`, `NotFound` among them."""
    console = Console(highlight=False)
    with _admin(address) as admin:
        request = admin_pb2.DrainWorkerRequest(
            worker_id=worker_id, timeout_ms=round(timeout_s * 1000)
        )
        worker = admin.DrainWorker(request, timeout=TIMEOUT_S).worker
        console.print(_line(worker))
        with console.status("waiting until it holds nothing; Ctrl-C leaves it to itself"):
            while wait and worker.num_sequences:
                time.sleep(POLL_S)
                worker = _find(admin, worker_id)
    if wait:
        console.print(f"{worker_id} holds nothing any more; `tandem undrain {worker_id}` ends that")


def undrain_worker(address: str | None, worker_id: str) -> None:
    """Put a worker back into service. Raises `TandemError`, `NotFound` among them."""
    with _admin(address) as admin:
        request = admin_pb2.UndrainWorkerRequest(worker_id=worker_id)
        worker = admin.UndrainWorker(request, timeout=TIMEOUT_S).worker
    Console(highlight=False).print(_line(worker))


def state_name(worker: admin_pb2.WorkerStatus) -> str:
    """`serving`, `suspect`, `draining` or `stopping`."""
    name = admin_pb2.WorkerState.Name(worker.state)
    return name.removeprefix("WORKER_STATE_").lower()


def _line(worker: admin_pb2.WorkerStatus) -> str:
    return f"{worker.worker_id} is {state_name(worker)}, and holds {worker.num_sequences} sequences"


def _find(admin: admin_pb2_grpc.AdminServiceStub, worker_id: str) -> admin_pb2.WorkerStatus:
    for worker in _list(admin):
        if worker.worker_id == worker_id:
            return worker
    raise NotFound(f"{worker_id} is gone")


def _list(admin: admin_pb2_grpc.AdminServiceStub) -> list[admin_pb2.WorkerStatus]:
    return list(admin.ListWorkers(admin_pb2.ListWorkersRequest(), timeout=TIMEOUT_S).workers)


@contextmanager
def _admin(address: str | None) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    target = resolve_address(address)
    with (
        reaching_gateway(),
        translated_errors(),
        grpc.insecure_channel(target, options=CHANNEL_OPTIONS) as channel,
    ):
        yield admin_pb2_grpc.AdminServiceStub(channel)
