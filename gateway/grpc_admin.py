"""`AdminService`: what operators ask of the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import grpc

from gateway.decode_view import DecodeView
from gateway.prefill_view import PrefillView
from gateway.worker_state import state_of
from tandem.core.installation import own_version
from tandem.v1 import admin_pb2, admin_pb2_grpc, worker_pb2
from tandem.wire.status import abort

Context = grpc.aio.ServicerContext[Any, Any]


class WorkerAdmin(Protocol):
    """What the dispatcher offers operators."""

    @property
    def workers(self) -> Sequence[PrefillView | DecodeView]:
        """Those that have joined."""
        ...

    def needs(self, worker: PrefillView | DecodeView) -> bool:
        """Whether what comes would be refused without it."""
        ...

    def drain_worker(self, worker_id: str, timeout_s: float) -> PrefillView | DecodeView:
        """Take a worker out of service. Raises `NotFound`."""
        ...

    def undrain_worker(self, worker_id: str) -> PrefillView | DecodeView:
        """Put it back. Raises `NotFound`."""
        ...


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """The workers' states, and orders to them, over `admin`."""

    def __init__(self, admin: WorkerAdmin) -> None:
        self._admin = admin

    async def ListWorkers(
        self, request: admin_pb2.ListWorkersRequest, context: Context
    ) -> admin_pb2.ListWorkersResponse:
        """All workers."""
        workers = sorted(self._admin.workers, key=_order)
        return admin_pb2.ListWorkersResponse(
            workers=map(self._status, workers), gateway_version=own_version()
        )

    async def DrainWorker(
        self, request: admin_pb2.DrainWorkerRequest, context: Context
    ) -> admin_pb2.DrainWorkerResponse:
        """Take a worker out of service."""
        try:
            worker = self._admin.drain_worker(request.worker_id, request.timeout_ms / 1000)
        except Exception as error:
            await abort(context, error)
        return admin_pb2.DrainWorkerResponse(worker=self._status(worker))

    async def UndrainWorker(
        self, request: admin_pb2.UndrainWorkerRequest, context: Context
    ) -> admin_pb2.UndrainWorkerResponse:
        """Put a worker back into service."""
        try:
            worker = self._admin.undrain_worker(request.worker_id)
        except Exception as error:
            await abort(context, error)
        return admin_pb2.UndrainWorkerResponse(worker=self._status(worker))

    def _status(self, worker: PrefillView | DecodeView) -> admin_pb2.WorkerStatus:
        info = worker.info
        return admin_pb2.WorkerStatus(
            worker_id=info.worker_id,
            role=worker_pb2.WorkerRole.ValueType(info.role),
            address=worker.address,
            state=admin_pb2.WorkerState.Value(f"WORKER_STATE_{state_of(worker).name}"),
            num_sequences=len(worker.generations),
            num_blocks=info.num_blocks,
            num_used_blocks=worker.num_used_blocks,
            device=info.device,
            worker_epoch=info.epoch,
            version=info.version,
            pid=info.pid,
            needed=self._admin.needs(worker),
        )


def _order(worker: PrefillView | DecodeView) -> tuple[int, str]:
    return worker.info.role, worker.info.worker_id
