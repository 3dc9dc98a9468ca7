"""`grpc.health.v1.Health`: whether a server, and each of its services, is to be sent calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tandem.core.errors import NotFound
from tandem.wire.status import abort

Response = health_pb2.HealthCheckResponse
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Health(health_pb2_grpc.HealthServicer):
    """Tells whoever asks or watches. The library's own writes to a watcher while it holds what a
    change waits for: one that reads nothing would keep its server from ending."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()

    def set(self, services: Iterable[str], status: int) -> None:
        """So it is with these from now on, by a `ServingStatus`. The server as a whole is the empty
        name."""
        self._statuses |= dict.fromkeys(services, status)
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Response:
        """What a service's status is; `NOT_FOUND` if there is no such service."""
        status = self._statuses.get(request.service)
        if status is None:
            await abort(context, NotFound("there is no such service"))
        return Response(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Context) -> None:
        """What it is, and then what it becomes, until the client leaves."""
        told: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(request.service, Response.SERVICE_UNKNOWN)
            if status != told:
                await context.write(Response(status=status))
                told = status
            await changed.wait()
