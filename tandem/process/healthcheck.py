"""`python -m tandem.process.healthcheck WHERE`: whether a service on this machine is well.

For container engines, which run it beside the service. WHERE is a gRPC address, whose server is
asked by `grpc.health.v1`, or a URL, which must answer 200. Exit status 0 if so, else 1 and why.
"""

from __future__ import annotations

import sys
from typing import Any
from urllib.request import urlopen

TIMEOUT_S = 3.0


def problem(where: str) -> str | None:
    """What is wrong with a service, or None."""
    return _http_problem(where) if where.startswith("http://") else _grpc_problem(where)


def _http_problem(url: str) -> str | None:
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response:
            return None if response.status == 200 else f"status {response.status}"
    except OSError as error:  # also urllib's own errors, for answers of 4xx and 5xx among others
        return str(error)


def _grpc_problem(address: str) -> str | None:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return str(error.details())
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return None
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tandem.process.healthcheck HOST:PORT | http://HOST:PORT/PATH")
    if found := problem(sys.argv[1]):
        sys.exit(f"error: {sys.argv[1]}: {found}")
