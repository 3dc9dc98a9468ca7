"""`python -m tandem.process.healthcheck WHERE [ROLE]`: whether a service on this machine is well.

For container engines, which run it beside the service. WHERE is a gRPC address, whose server is
asked by `grpc.health.v1`, or a URL, which must answer 200. ROLE is the service's, whose certificate
is used if `TANDEM_TLS_DIR` is set. Exit status 0 if it is well, else 1 and why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import ProxyHandler, build_opener

if TYPE_CHECKING:
    from tandem.wire.tls import ChannelTls

TIMEOUT_S = 3.0


def problem(where: str, role: str | None = None) -> str | None:
    """What is wrong with a service, or None. Raises `ConfigError` for a bad certificate."""
    return _http_problem(where) if where.startswith("http://") else _grpc_problem(where, role)


def _http_problem(url: str) -> str | None:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=TIMEOUT_S) as response:
            return None if response.status == 200 else f"status {response.status}"
    except OSError as error:  # also urllib's own errors, for answers of 4xx and 5xx among others
        return str(error)


def _grpc_problem(address: str, role: str | None) -> str | None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from tandem.wire.channels import open_sync_channel

    with open_sync_channel(address, _tls(role)) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.details())
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _tls(role: str | None) -> ChannelTls | None:
    """For a channel from a service to itself."""
    tls_dir = os.environ.get("TANDEM_TLS_DIR")
    if not tls_dir or role is None:
        return None
    from tandem.process.identity import read_identity
    from tandem.wire.tls import Role

    return read_identity(Path(tls_dir), Role(role)).towards(Role(role))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(
            "usage: python -m tandem.process.healthcheck HOST:PORT [ROLE] | http://HOST:PORT/PATH"
        )
    if found := problem(*sys.argv[1:]):
        sys.exit(f"error: {sys.argv[1]}: {found}")
