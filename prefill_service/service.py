"""The prefill service, put together.

A sequence's way through it: a batch comes down the command stream and waits behind the running one
(`batch_queue`), the engine's thread runs it (`tandem.worker.step_loop`), each layer's KV leaves for
the decode worker while the next layers compute (`sending`, `tandem.transfer.sender`), the first
token goes up the command stream at once, and the blocks are free when the decode worker has
acknowledged all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from pydantic import Field

from prefill_service.batch_queue import BatchQueue
from prefill_service.sending import LoopTransfers
from tandem.core.commands import PrefillCommand
from tandem.core.reports import PrefillReport, PrefillSnapshot
from tandem.core.worker import WorkerRole
from tandem.faults.frames import faulty_calls
from tandem.faults.injector import FaultInjector, injector_of
from tandem.transfer.layer_grouper import MAX_FRAME_BYTES, MIN_FRAME_BYTES
from tandem.transfer.sender import KvSender
from tandem.transfer.state_guard import StateGuard
from tandem.v1 import prefill_pb2, prefill_pb2_grpc
from tandem.wire import commands, reports
from tandem.wire.tls import Role, towards_worker
from tandem.worker.command_stream import CommandStreams, Dialect
from tandem.worker.service import load_worker, run_worker, worker_server
from tandem.worker.settings import WorkerSettings
from tandem.worker.watched_pool import WatchedPool
from tandem.worker.worker import Worker

SERVICE = prefill_pb2.DESCRIPTOR.services_by_name["PrefillService"].full_name
DIALECT = Dialect(
    response=prefill_pb2.RunBatchesResponse,
    command_from_wire=commands.prefill_command_from_wire,
    report_to_wire=reports.prefill_report_to_wire,
    snapshot_to_wire=reports.prefill_snapshot_to_wire,
)


class PrefillSettings(WorkerSettings):
    """Settings of a prefill worker; all have twins in the environment, such as TANDEM_WORKER_ID."""

    decodes = False
    port: int = Field(50051, ge=1, le=65535, description="gRPC port")
    min_frame_bytes: int = Field(
        MIN_FRAME_BYTES,
        ge=1,
        le=MAX_FRAME_BYTES,
        description="KV of so many bytes, of one layer or several, is sent",
    )


class PrefillServicer(prefill_pb2_grpc.PrefillServiceServicer):
    """The command stream of a prefill worker."""

    def __init__(
        self,
        worker: Worker[PrefillCommand, PrefillReport, PrefillSnapshot],
        injector: FaultInjector | None = None,
    ) -> None:
        self._streams = CommandStreams[
            prefill_pb2.RunBatchesRequest, prefill_pb2.RunBatchesResponse
        ](worker, DIALECT, injector)

    async def RunBatches(
        self,
        request_iterator: AsyncIterator[prefill_pb2.RunBatchesRequest],
        context: grpc.aio.ServicerContext[
            prefill_pb2.RunBatchesRequest, prefill_pb2.RunBatchesResponse
        ],
    ) -> AsyncIterator[prefill_pb2.RunBatchesResponse]:
        async for response in self._streams.serve(request_iterator, context):
            yield response


async def serve(settings: PrefillSettings) -> None:
    """Run a prefill worker until it is told to stop. Raises `ConfigError`."""
    identity = settings.read_identity(Role.PREFILL)
    injector = injector_of(settings.faults, settings.allow_faults)
    info, engine = load_worker(settings, WorkerRole.PREFILL, injector)
    loop = asyncio.get_running_loop()
    guard = StateGuard(loop)
    pool = WatchedPool(engine, guard)
    # `queue` and `worker` are made below.
    sender = KvSender(
        name=info.worker_id,
        pool=pool,
        model_fingerprint=info.model.kv_fingerprint,
        guard=guard,
        on_done=lambda *done: queue.transfer_done(*done),  # noqa: PLW0108
        on_failed=lambda *failed: queue.transfer_failed(*failed),  # noqa: PLW0108
        on_span=lambda span: worker.add_span(span),  # noqa: PLW0108
        min_frame_bytes=settings.min_frame_bytes,
        tls=towards_worker(identity, WorkerRole.DECODE),
        wrap_call=faulty_calls(injector),
    )
    queue = BatchQueue(
        layout=info.layout,
        num_blocks=info.num_blocks,
        end_rule=info.model.end_rule,
        transfers=LoopTransfers(sender, loop, guard.crashed),
        prefix_caching=info.caches_prefixes,
    )
    worker = Worker(info, engine, queue, guard)
    server = worker_server(settings, identity)
    prefill_pb2_grpc.add_PrefillServiceServicer_to_server(
        PrefillServicer(worker, injector), server.server
    )
    try:
        await run_worker(worker, pool, server, [SERVICE], settings)
    finally:
        await sender.close()
