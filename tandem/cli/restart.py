"""`tandem restart`: a worker's end, and its successor."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time

import psutil
from rich.console import Console

from tandem.cli.flags import GatewayFlags
from tandem.cli.workers import POLL_S, Admin, reached_admin, state_name
from tandem.core.address import parse_address
from tandem.core.errors import ConfigError, NotFound, Unavailable
from tandem.v1 import admin_pb2


def restart_worker(gateway: GatewayFlags, worker_id: str, by: str | None, timeout_s: float) -> None:
    """Have a worker end in good order, by the command `by` or by SIGTERM to its process, and return
    when another process serves under its name. Raises `TandemError`: `Unavailable` if none does in
    time, `ConfigError` if the command fails."""
    console = Console(highlight=False, markup=False)
    with reached_admin(gateway) as admin:
        worker = admin.worker(worker_id)
        if worker is None:
            raise NotFound(f"there is no worker named {worker_id}: `tandem workers` lists them")
        with console.status(f"restarting {worker_id}"):
            deadline_s = time.monotonic() + timeout_s
            _end(worker, by)
            successor = _successor(admin, worker, deadline_s)
    if successor is None:
        raise Unavailable(f"{worker_id} has no successor that serves after {timeout_s:g} s")
    console.print(f"{worker_id} serves again: version {successor.version}, pid {successor.pid}")


def _end(worker: admin_pb2.WorkerStatus, by: str | None) -> None:
    if by is None:
        os.kill(_own_process(worker), signal.SIGTERM)
        return
    try:
        status = subprocess.run(shlex.split(by) or [""], check=False).returncode
    except (OSError, ValueError) as error:
        raise ConfigError(f"{by!r} cannot be run: {error}", param="by") from None
    if status:
        raise ConfigError(f"{by!r} failed with exit status {status}", param="by")


def _own_process(worker: admin_pb2.WorkerStatus) -> int:
    """Its process, if that is on this machine and nobody else's: it listens where the worker does.
    Raises `ConfigError`."""
    port = parse_address(worker.address, "address").port
    try:
        connections = psutil.Process(worker.pid).net_connections("tcp") if worker.pid else []
    except psutil.Error:
        connections = []
    ports = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    if port not in ports:
        raise ConfigError(
            f"{worker.worker_id} at {worker.address} is no process of this machine, or not yours:"
            " say what restarts it",
            param="by",
        )
    return worker.pid


def _successor(
    admin: Admin, worker: admin_pb2.WorkerStatus, deadline_s: float
) -> admin_pb2.WorkerStatus | None:
    """Who serves in a worker's place; None if nobody does in time."""
    while time.monotonic() < deadline_s:
        now = admin.worker(worker.worker_id)
        if now and now.worker_epoch != worker.worker_epoch and state_name(now) == "serving":
            return now
        time.sleep(POLL_S)
    return None
