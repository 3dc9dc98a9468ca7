"""The probe that container engines run beside a service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from tandem.bench.ports import free_port
from tandem.process.healthcheck import problem


@contextmanager
def http_server(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ready" else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/ready"
        server.shutdown()


@contextmanager
def grpc_server(status: health_pb2.HealthCheckResponse.ServingStatus) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    servicer.set("", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_url_must_answer_200() -> None:
    with http_server(200) as url:
        assert problem(url) is None
    with http_server(503) as url:
        assert "503" in str(problem(url))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (health_pb2.HealthCheckResponse.SERVING, None),
        (health_pb2.HealthCheckResponse.NOT_SERVING, "NOT_SERVING"),
    ],
)
def test_a_grpc_server_must_say_that_it_serves(
    status: health_pb2.HealthCheckResponse.ServingStatus, expected: str | None
) -> None:
    with grpc_server(status) as address:
        assert problem(address) == expected


@pytest.mark.parametrize("where", ["127.0.0.1:{port}", "http://127.0.0.1:{port}/ready"])
def test_nobody_there_is_a_problem(where: str) -> None:
    assert problem(where.format(port=free_port()))
