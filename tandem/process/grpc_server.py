"""A gRPC server with health and reflection."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tandem.core.address import parse_address
from tandem.core.errors import ConfigError
from tandem.process.health import Health
from tandem.process.ports import obstacle
from tandem.wire.channels import MAX_MESSAGE_BYTES, new_server

log = structlog.get_logger(__name__)

STOP_GRACE_S = 1.0


class GrpcServer:
    """`grpc.aio.Server` in Tandem's set-up. Add the services to `server`, then `start`. With
    `credentials` it talks TLS alone, as these say. `param` is the setting of its port."""

    def __init__(
        self,
        address: str,
        max_request_bytes: int = MAX_MESSAGE_BYTES,
        *,
        credentials: grpc.ServerCredentials | None = None,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        max_calls: int | None = None,
        param: str = "port",
    ) -> None:
        self.server: grpc.aio.Server = new_server(max_request_bytes, interceptors, max_calls)
        self._address = address
        self._services: Sequence[str] = ()
        self._credentials = credentials
        self._param = param
        self._health = Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)

    async def start(self, services: Sequence[str]) -> None:
        """Serve. `services` are the full names of what was added; they and the server as a whole
        are healthy from now on. Raises `ConfigError` if the address cannot be bound."""
        reflection.enable_server_reflection(
            [*services, health.SERVICE_NAME, reflection.SERVICE_NAME], self.server
        )
        self._bind()
        self._services = ("", *services)
        self._health.set(self._services, health_pb2.HealthCheckResponse.SERVING)
        await self.server.start()
        log.info("serving gRPC", address=self._address, tls=self._credentials is not None)

    def drain(self) -> None:
        """Say NOT_SERVING to whoever asks or watches; calls are taken as before."""
        self._health.set(self._services, health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self) -> None:
        """NOT_SERVING first, then no new calls, then the end of the calls that are left."""
        self.drain()
        await self.server.stop(STOP_GRACE_S)

    def _bind(self) -> None:
        try:
            port = self._add_port()
        except RuntimeError:
            port = 0
        if port == 0:
            raise ConfigError(f"cannot listen on {self._address}: {self._why()}", param=self._param)

    def _why(self) -> str:
        """gRPC does not say. Raises `ConfigError` if the host is not this one."""
        address = parse_address(self._address)
        found = obstacle(address.host, address.port)
        return (found and found.strerror) or "is the port in use?"

    def _add_port(self) -> int:
        if self._credentials is None:
            return self.server.add_insecure_port(self._address)
        return self.server.add_secure_port(self._address, self._credentials)
