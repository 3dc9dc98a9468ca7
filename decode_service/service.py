"""The decode service, put together.

A sequence's way through it: `Reserve` sets blocks aside (`standing_plan`), `PushKv` fills them
(`tandem.transfer.receiver`), the last frame arms it, the engine's thread takes it into the first
step after that (`tandem.worker.step_loop`), and each step's report goes up the command stream
(`tandem.worker.command_stream`).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from time import monotonic_ns

import grpc
from pydantic import Field

from decode_service.kv_mover import KvMover
from decode_service.standing_plan import StandingPlan
from tandem.core.commands import ReceivedDecodeCommand
from tandem.core.device import CudaDevice, parse_device
from tandem.core.reports import DecodeReport, DecodeSnapshot
from tandem.core.worker import WorkerRole
from tandem.faults.injector import FaultInjector, injector_of
from tandem.transfer import servicer as kv_servicer
from tandem.transfer.receiver import KvReceiver
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import decode_pb2, decode_pb2_grpc
from tandem.wire import commands, reports
from tandem.wire.tls import Role
from tandem.worker.command_stream import CommandStreams, Dialect
from tandem.worker.service import load_worker, run_worker, worker_server
from tandem.worker.settings import WorkerSettings
from tandem.worker.watched_pool import WatchedPool
from tandem.worker.worker import Worker

SERVICE = decode_pb2.DESCRIPTOR.services_by_name["DecodeService"].full_name
DIALECT = Dialect(
    response=decode_pb2.RunLoopResponse,
    command_from_wire=commands.decode_command_from_wire,
    report_to_wire=reports.decode_report_to_wire,
    snapshot_to_wire=reports.decode_snapshot_to_wire,
)


DEFAULT_PARKED_BYTES = 4 * 2**30


class DecodeSettings(WorkerSettings):
    """Settings of a decode worker; all have twins in the environment, such as TANDEM_WORKER_ID."""

    port: int = Field(50052, ge=1, le=65535, description="gRPC port")
    parked_kv_bytes: int | None = Field(
        None,
        ge=0,
        description="host memory for the KV of preempted sequences, which is computed again where "
        "that is faster (default: 0 on a CPU, whose pool is host memory too, else 4 GiB)",
    )

    @property
    def max_parked_bytes(self) -> int:
        if self.parked_kv_bytes is not None:
            return self.parked_kv_bytes
        return 0 if self.device.startswith("cpu") else DEFAULT_PARKED_BYTES


class DecodeServicer(decode_pb2_grpc.DecodeServiceServicer):
    """The command stream of a decode worker."""

    def __init__(
        self,
        worker: Worker[ReceivedDecodeCommand, DecodeReport, DecodeSnapshot],
        injector: FaultInjector | None = None,
    ) -> None:
        self._streams = CommandStreams[decode_pb2.RunLoopRequest, decode_pb2.RunLoopResponse](
            worker, DIALECT, injector
        )

    async def RunLoop(
        self,
        request_iterator: AsyncIterator[decode_pb2.RunLoopRequest],
        context: grpc.aio.ServicerContext[decode_pb2.RunLoopRequest, decode_pb2.RunLoopResponse],
    ) -> AsyncIterator[decode_pb2.RunLoopResponse]:
        async for response in self._streams.serve(request_iterator, context):
            yield response


async def serve(settings: DecodeSettings) -> None:
    """Run a decode worker until it is told to stop. Raises `ConfigError`."""
    if isinstance(parse_device(settings.device), CudaDevice):
        # A step there takes one or two milliseconds, and its launch lets go of the interpreter some
        # times: each time a busy event loop would keep it for up to Python's own 5 ms.
        sys.setswitchinterval(0.0005)
    identity = settings.read_identity(Role.DECODE)
    injector = injector_of(settings.faults, settings.allow_faults)
    info, engine = load_worker(settings, WorkerRole.DECODE, injector)
    guard = StateGuard(asyncio.get_running_loop())
    pool = WatchedPool(engine, guard)
    # `plan` is made below.
    mover = KvMover(pool, guard, lambda *moved: plan.moved(*moved))  # noqa: PLW0108
    plan = StandingPlan(
        layout=info.layout,
        num_blocks=info.num_blocks,
        max_num_seqs=info.max_num_seqs,
        end_rule=info.model.end_rule,
        clock_ns=monotonic_ns,
        prefix_caching=info.caches_prefixes,
        mover=mover,
        max_parked_bytes=settings.max_parked_bytes,
    )
    worker = Worker(info, engine, plan, guard)
    receiver = KvReceiver(
        pool, plan, guard, info.model.kv_fingerprint, info.model.vocab_size, worker.add_span
    )
    server = worker_server(settings, identity)
    decode_pb2_grpc.add_DecodeServiceServicer_to_server(
        DecodeServicer(worker, injector), server.server
    )
    kv_servicer.add_kv_transfer_service(receiver, server.server)
    try:
        await run_worker(worker, pool, server, [SERVICE, kv_servicer.SERVICE], settings)
    finally:
        receiver.close()
        mover.close()
