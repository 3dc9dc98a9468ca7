"""What tests of the gRPC side share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import grpc
from scripted_service import ScriptedService
from structlog.testing import capture_logs

from gateway.frontend import Frontend
from gateway.grpc_inference import READ_TIMEOUT_S, InferenceServicer
from gateway.service import MAX_REQUEST_BYTES
from tandem.bench.ports import free_port
from tandem.process.grpc_server import GrpcServer
from tandem.v1 import inference_pb2, inference_pb2_grpc

SERVICE = "tandem.v1.InferenceService"
GENERATE = f"/{SERVICE}/Generate"


async def _timeline(window_ms: int) -> inference_pb2.GetTimelineResponse:
    lane = inference_pb2.TimelineLane(worker_id=f"last {window_ms}")
    return inference_pb2.GetTimelineResponse(lanes=[lane])


@asynccontextmanager
async def serving(
    frontend: Frontend,
    service: ScriptedService,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    read_timeout_s: float = READ_TIMEOUT_S,
) -> AsyncIterator[str]:
    """The address of a server over a real socket. The one lane of its timeline is named after what
    is asked for."""
    address = f"127.0.0.1:{free_port()}"
    server = GrpcServer(address, MAX_REQUEST_BYTES, interceptors=interceptors)
    servicer = InferenceServicer(frontend, service, _timeline, read_timeout_s)
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(servicer, server.server)
    # What it says of its start is no test's matter.
    with capture_logs():
        await server.start([SERVICE])
    yield address
    await server.stop()


async def code_of(
    channel: grpc.aio.Channel, message: bytes, method: str = GENERATE
) -> grpc.StatusCode:
    """How a call ends, whatever it asks for."""
    call = channel.unary_stream(method)(message, timeout=30)
    # There is a status once all that came before it is read.
    with suppress(grpc.aio.AioRpcError):
        async for _ in call:
            pass
    return await call.code()
