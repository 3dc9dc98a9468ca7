"""What the two services have in common when they are put together, started and stopped."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import Any

import structlog

from tandem.artifacts.resolve import resolve
from tandem.core.address import is_loopback
from tandem.core.device import CpuDevice, parse_device
from tandem.core.errors import ConfigError
from tandem.core.installation import own_version
from tandem.core.worker import WorkerInfo, WorkerRole
from tandem.engine.protocols import Engine
from tandem.faults.engine import FaultyEngine
from tandem.faults.injector import FaultInjector
from tandem.process.cores import cores_of, usable_cores
from tandem.process.grpc_server import GrpcServer
from tandem.process.lifetime import StopSignals, settle
from tandem.process.logged_progress import LoggedProgress
from tandem.process.ports import obstacle
from tandem.v1 import worker_pb2, worker_pb2_grpc
from tandem.wire.descriptions import worker_to_wire
from tandem.wire.tls import Identity
from tandem.worker.engines import build_engine
from tandem.worker.metrics import serve_metrics
from tandem.worker.settings import WorkerSettings
from tandem.worker.step_watch import end_within, watch_work
from tandem.worker.watched_pool import WatchedPool
from tandem.worker.worker import Worker

log = structlog.get_logger(__name__)

# How long the end of a process may take once it is not waited for by a controller any more.
STOP_S = 5.0


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """Answers who this worker is, and whose."""

    def __init__(self, worker: Worker[Any, Any, Any]) -> None:
        self._worker = worker

    async def Describe(
        self, request: worker_pb2.DescribeRequest, context: object
    ) -> worker_pb2.DescribeResponse:
        lease = self._worker.lease
        return worker_pb2.DescribeResponse(
            worker=worker_to_wire(self._worker.info),
            draining=self._worker.is_draining,
            controller_id=lease.holder.controller_id if lease.holder else "",
            newest_term=max(0, lease.newest_term),
        )


def load_worker(
    settings: WorkerSettings, role: WorkerRole, injector: FaultInjector | None
) -> tuple[WorkerInfo, Engine]:
    """Bind the process to its cores, and load the model. Raises `ConfigError`."""
    device = parse_device(settings.device)
    if isinstance(device, CpuDevice) and device.part:
        # From here on it has names.
        device = CpuDevice(tuple(cores_of(device, usable_cores())))
        settings = settings.model_copy(update={"device": str(device)})
    # Before the model, in case they are wrong.
    advertised_address = settings.advertised_address
    if taken := obstacle(settings.host, settings.port):
        raise ConfigError(f"cannot listen on {settings.address}: {taken.strerror}", param="port")
    if settings.tls_dir is None and not is_loopback(settings.host):
        log.warning("other machines may command this worker: see --tls-dir", host=settings.host)
    if isinstance(device, CpuDevice) and device.cores:
        _bind_to_cores(device)
    engine = _on_a_thread(lambda: _load_engine(settings, injector))
    info = WorkerInfo(
        worker_id=settings.worker_id
        or f"{role.name.lower()}-{socket.gethostname()}-{settings.port}",
        role=role,
        epoch=secrets.randbits(63),
        model=engine.model,
        layout=engine.pool.layout,
        num_blocks=engine.pool.num_blocks,
        max_num_seqs=settings.max_num_seqs,
        device=settings.device,
        advertised_address=advertised_address,
        caches_prefixes=settings.prefix_caching == "auto",
        version=own_version(),
        pid=os.getpid(),
    )
    log.info(
        "loaded",
        worker=info.worker_id,
        model=info.model.name,
        device=info.device,
        advertised=info.advertised_address,
        numerics=info.model.numerics,
        kv_blocks=info.num_blocks,
        kv_tokens=info.num_blocks * info.layout.block_size,
    )
    return info, engine


def _load_engine(settings: WorkerSettings, injector: FaultInjector | None) -> Engine:
    """To be called on a thread that ends, and its OpenMP threads with it. Beside those of the
    engine's thread there would be more of them than cores, and OpenMP would put each to sleep
    whenever it waits for the others: a third of the time of a small step."""
    engine = build_engine(settings, resolve(settings.model, LoggedProgress()))
    return FaultyEngine(engine, injector) if injector else engine


def _on_a_thread(load: Callable[[], Engine]) -> Engine:
    """Call something on a thread of its own, which does not outlive it. A signal that ends the
    process does not wait for it."""
    loaded: Future[Engine] = Future()

    def run() -> None:
        try:
            loaded.set_result(load())
        except BaseException as error:
            loaded.set_exception(error)

    thread = Thread(target=run, name="load", daemon=True)
    thread.start()
    engine = loaded.result()
    thread.join()
    return engine


def worker_server(settings: WorkerSettings, identity: Identity | None) -> GrpcServer:
    """The worker's server, which with an identity talks to other services alone."""
    credentials = identity.server_credentials() if identity else None
    return GrpcServer(settings.address, credentials=credentials)


async def run_worker(
    worker: Worker[Any, Any, Any],
    pool: WatchedPool,
    server: GrpcServer,
    services: Sequence[str],
    settings: WorkerSettings,
) -> None:
    """Serve until SIGTERM or SIGINT, metrics too if they have an address; after SIGTERM, until the
    controller has let go, but no longer than the drain's timeout. Raises what ended the engine's
    thread, or `ConfigError`. If a step hangs, a preparation or a copy of KV, the process ends
    here."""
    if metrics := settings.metrics_address:
        serve_metrics(worker, metrics)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(WorkerServicer(worker), server.server)
    name = worker_pb2.DESCRIPTOR.services_by_name["WorkerService"].full_name
    worker.start()
    settle()
    watched = (worker.step_under_way, worker.preparation_under_way, pool.copy_under_way)
    watch = asyncio.create_task(watch_work(watched, settings.step_timeout))
    try:
        await server.start([name, *services])
        signals = StopSignals()
        await _unless_crashed(worker, signals.asked.wait())
        log.info("stopping", worker=worker.info.worker_id)
        server.drain()
        worker.drain(settings.drain_timeout)
        released = _unless_crashed(worker, worker.released())
        await signals.wait_for(released, settings.drain_timeout)
        await server.stop()
    finally:
        watch.cancel()
        # Nobody needs what its running step computes.
        end_within(STOP_S, worker.step_under_way)
        # If it is broken, first of all the gateway loses it: what it held goes on elsewhere.
        await server.server.stop(None)
        await worker.stop()


async def _unless_crashed(
    worker: Worker[Any, Any, Any], event: Coroutine[Any, Any, object]
) -> None:
    """Wait for an event. Raises what ended one of the worker's threads, if that comes first."""
    happening: asyncio.Future[Any] = asyncio.ensure_future(event)
    crash = worker.guard.crash
    try:
        await asyncio.wait({happening, crash}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        happening.cancel()
    if crash.done():
        crash.result()


def _bind_to_cores(device: CpuDevice) -> None:
    try:
        os.sched_setaffinity(0, device.cores)
    except OSError:
        raise ConfigError(
            f"cannot run on {device}: the cores here are {sorted(os.sched_getaffinity(0))}",
            param="device",
        ) from None
